#include <cstdint>

#include "cuda/ops/device.cuh"
#include "cuda/ops/optimizer.h"
#include "cuda/runtime/kernel.h"

namespace strata::gpu {
namespace {

__global__ void __launch_bounds__(kBlock)
    AccumulateKernel(int64_t n, const float* value, const float* keep_at,
                     float* sum) {
  const float keep = *keep_at;
  for (int64_t i = FirstElement(); i < n; i += ElementStride()) {
    // Whatever `sum` holds, NaN too, is forgotten where nothing is kept.
    sum[i] = keep == 0 ? value[i] : fmaf(keep, sum[i], value[i]);
  }
}

cudaError_t RunAccumulate(const KernelContext& ctx) {
  const Operand& sum = ctx.in(0);
  AccumulateKernel<<<BlocksFor(sum.max_elements(), 4), kBlock, 0, ctx.stream>>>(
      sum.max_elements(), ctx.in(1).as<float>(), ctx.in(2).as<float>(),
      sum.as<float>());
  return cudaGetLastError();
}

__global__ void __launch_bounds__(kBlock)
    AccumulateCountsKernel(int64_t n, const int32_t* value,
                           const float* keep_at, int32_t* sum) {
  const bool keep = *keep_at != 0;
  for (int64_t i = FirstElement(); i < n; i += ElementStride()) {
    sum[i] = value[i] + (keep ? sum[i] : 0);
  }
}

cudaError_t RunAccumulateCounts(const KernelContext& ctx) {
  const Operand& sum = ctx.in(0);
  AccumulateCountsKernel<<<BlocksFor(sum.max_elements(), 4), kBlock, 0,
                           ctx.stream>>>(
      sum.max_elements(), ctx.in(1).as<int32_t>(), ctx.in(2).as<float>(),
      sum.as<int32_t>());
  return cudaGetLastError();
}

// Gradients of one launch, by value: 1.5 kB of a kernel's 4 kB of arguments.
constexpr int kBatch = 96;
// Blocks that share a gradient.
constexpr int kPieces = 32;
struct Gradients {
  const float* data[kBatch];
  int64_t size[kBatch];
};

// partial [gradients, kPieces]: sums of squares, in double.
__global__ void __launch_bounds__(kBlock)
    SquaresKernel(const Gradients gradients, double* partial) {
  const float* const x = gradients.data[blockIdx.y];
  const int64_t n = gradients.size[blockIdx.y];
  double sum = 0;
  for (int64_t i = FirstElement(); i < n; i += ElementStride()) {
    sum += static_cast<double>(x[i]) * x[i];
  }
  sum = BlockSum(sum);
  if (threadIdx.x == 0) partial[blockIdx.y * kPieces + blockIdx.x] = sum;
}

__global__ void __launch_bounds__(kBlock)
    NormKernel(int64_t n, const double* partial, const float* divisor,
               float* norm) {
  double sum = 0;
  for (int64_t i = threadIdx.x; i < n; i += kBlock) sum += partial[i];
  sum = BlockSum(sum);
  if (threadIdx.x == 0) *norm = static_cast<float>(sqrt(sum) / *divisor);
}

cudaError_t RunGlobalNorm(const KernelContext& ctx) {
  const int num_grads = ctx.num_inputs - 1;
  auto* const partial = ctx.Take<double>(int64_t{num_grads} * kPieces);
  if (partial == nullptr) return cudaErrorMemoryAllocation;
  for (int first = 0; first < num_grads; first += kBatch) {
    const int count = std::min(kBatch, num_grads - first);
    Gradients gradients = {};
    for (int g = 0; g < count; ++g) {
      gradients.data[g] = ctx.in(1 + first + g).as<float>();
      gradients.size[g] = ctx.in(1 + first + g).max_elements();
    }
    SquaresKernel<<<dim3(kPieces, count), kBlock, 0, ctx.stream>>>(
        gradients, partial + int64_t{first} * kPieces);
  }
  NormKernel<<<1, kBlock, 0, ctx.stream>>>(int64_t{num_grads} * kPieces,
                                           partial, ctx.in(0).as<float>(),
                                           ctx.out(0).as<float>());
  return cudaGetLastError();
}

struct AdamWArgs {
  int64_t n = 0;
  float* param = nullptr;
  float* m = nullptr;
  float* v = nullptr;
  const float* grad = nullptr;
  const float* norm = nullptr;
  const float* divisor = nullptr;
  const float* lr = nullptr;
  const int32_t* step = nullptr;
  double beta1 = 0, beta2 = 0, max_norm = 0;
  float eps = 0, weight_decay = 0;
  FaultSink fault;
};

// What all elements share; one thread of a block works it out.
struct AdamWStep {
  float grad_scale, m_scale, v_scale;
};

__global__ void __launch_bounds__(kBlock) AdamWKernel(const AdamWArgs args) {
  __shared__ AdamWStep shared;
  const double norm = *args.norm;
  // A gradient that is NaN or infinite would spoil every weight.
  if (!isfinite(norm)) return;
  if (threadIdx.x == 0) {
    const int step = *args.step;
    if (step < 1) args.fault.Report(FaultKind::kStep, 0, step, 0);
    shared.grad_scale = static_cast<float>(fmin(1.0, args.max_norm / norm) /
                                           static_cast<double>(*args.divisor));
    shared.m_scale = static_cast<float>(1 / (1 - pow(args.beta1, step)));
    shared.v_scale = static_cast<float>(1 / (1 - pow(args.beta2, step)));
  }
  __syncthreads();
  if (*args.step < 1) return;
  const AdamWStep step = shared;
  const float beta1 = static_cast<float>(args.beta1);
  const float beta2 = static_cast<float>(args.beta2);
  const float lr = *args.lr;
  for (int64_t i = FirstElement(); i < args.n; i += ElementStride()) {
    const float g = args.grad[i] * step.grad_scale;
    const float m = beta1 * args.m[i] + (1.f - beta1) * g;
    const float v = beta2 * args.v[i] + (1.f - beta2) * g * g;
    args.m[i] = m;
    args.v[i] = v;
    const float p = args.param[i];
    const float update =
        m * step.m_scale / (sqrtf(v * step.v_scale) + args.eps);
    args.param[i] = p - lr * (update + args.weight_decay * p);
  }
}

cudaError_t RunAdamW(const KernelContext& ctx) {
  AdamWArgs args;
  args.n = ctx.in(0).max_elements();
  args.param = ctx.in(0).as<float>();
  args.m = ctx.in(1).as<float>();
  args.v = ctx.in(2).as<float>();
  args.grad = ctx.in(3).as<float>();
  args.norm = ctx.in(4).as<float>();
  args.divisor = ctx.in(5).as<float>();
  args.lr = ctx.in(6).as<float>();
  args.step = ctx.in(7).as<int32_t>();
  args.beta1 = ctx.Double("beta1");
  args.beta2 = ctx.Double("beta2");
  args.max_norm = ctx.Double("max_norm");
  args.eps = ctx.Float("eps");
  args.weight_decay = ctx.Float("weight_decay");
  args.fault = ctx.fault;
  AdamWKernel<<<BlocksFor(args.n, 4), kBlock, 0, ctx.stream>>>(args);
  return cudaGetLastError();
}

}  // namespace

void RegisterOptimizerKernels(KernelRegistry& kernels) {
  kernels.Register("Accumulate", RunAccumulate);
  kernels.Register("AccumulateCounts", RunAccumulateCounts);
  kernels.Register("GlobalNorm", RunGlobalNorm);
  kernels.Register("AdamW", RunAdamW);
}

}  // namespace strata::gpu
