#include <cstdint>

#include "cuda/ops/bf16/eight.cuh"
#include "cuda/ops/device.cuh"
#include "cuda/ops/optimizer.h"
#include "cuda/runtime/kernel.h"
#include "cuda_bf16.h"

namespace strata::gpu {
namespace {

template <typename S, typename V>
__global__ void __launch_bounds__(kBlock)
    AccumulateKernel(int64_t n, const V* value, const float* keep_at, S* sum) {
  const float keep = *keep_at;
  for (int64_t i = FirstElement(); i < n; i += ElementStride()) {
    const float v = value[i];
    // Whatever `sum` holds, NaN too, is forgotten where nothing is kept.
    sum[i] = static_cast<S>(
        keep == 0 ? v : fmaf(keep, static_cast<float>(sum[i]), v));
  }
}

template <typename V>
cudaError_t AddTo(const Operand& sum, const V* value, const float* keep,
                  cudaStream_t stream) {
  const int64_t n = sum.max_elements();
  if (sum.element_size == 2) {
    AccumulateKernel<<<BlocksFor(n, 4), kBlock, 0, stream>>>(
        n, value, keep, sum.as<__nv_bfloat16>());
  } else {
    AccumulateKernel<<<BlocksFor(n, 4), kBlock, 0, stream>>>(n, value, keep,
                                                             sum.as<float>());
  }
  return cudaGetLastError();
}

cudaError_t RunAccumulate(const KernelContext& ctx) {
  const Operand& value = ctx.in(1);
  const float* const keep = ctx.in(2).as<float>();
  return value.element_size == 2
             ? AddTo(ctx.in(0), value.as<__nv_bfloat16>(), keep, ctx.stream)
             : AddTo(ctx.in(0), value.as<float>(), keep, ctx.stream);
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

// Gradients of one launch, by value: 2.3 kB of a kernel's 4 kB of arguments.
constexpr int kBatch = 96;
struct Gradients {
  const void* data[kBatch];
  int64_t size[kBatch];
  int32_t first_piece[kBatch + 1];  // Of the batch's partial sums.
  bool bf16[kBatch];
};

// Blocks that share a gradient of n elements: enough that the largest alone
// fills the GPU.
int PiecesOf(int64_t n) {
  return static_cast<int>(std::clamp<int64_t>(CeilDiv(n, 1 << 15), 1, 1056));
}

// The squares of a block's part of x, in double; of eights in float before.
template <typename T>
__device__ double SumSquares(const T* x, int64_t n, int64_t first,
                             int64_t stride) {
  double sum = 0;
  for (int64_t i = first; i < n / 8; i += stride) {
    float e[8], squares = 0;
    Load8(x + 8 * i, e);
#pragma unroll
    for (float value : e) squares = fmaf(value, value, squares);
    sum += squares;
  }
  for (int64_t i = n / 8 * 8 + first; i < n; i += stride) {
    const float value = x[i];
    sum += static_cast<double>(value) * value;
  }
  return sum;
}

// partial [pieces of all gradients]: sums of squares.
__global__ void __launch_bounds__(kBlock)
    SquaresKernel(const Gradients gradients, double* partial) {
  const int g = static_cast<int>(blockIdx.y);
  const int piece = gradients.first_piece[g] + static_cast<int>(blockIdx.x);
  const int pieces = gradients.first_piece[g + 1] - gradients.first_piece[g];
  if (blockIdx.x >= pieces) return;
  const int64_t n = gradients.size[g];
  const int64_t first = FirstElement(), stride = int64_t{pieces} * kBlock;
  double sum = 0;
  if (gradients.bf16[g]) {
    sum = SumSquares(static_cast<const __nv_bfloat16*>(gradients.data[g]), n,
                     first, stride);
  } else {
    sum = SumSquares(static_cast<const float*>(gradients.data[g]), n, first,
                     stride);
  }
  sum = BlockSum(sum);
  if (threadIdx.x == 0) partial[piece] = sum;
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
  int64_t all_pieces = 0;
  for (int g = 0; g < num_grads; ++g) {
    all_pieces += PiecesOf(ctx.in(1 + g).max_elements());
  }
  auto* const partial = ctx.Take<double>(all_pieces);
  if (partial == nullptr) return cudaErrorMemoryAllocation;
  double* of_batch = partial;
  for (int first = 0; first < num_grads; first += kBatch) {
    const int count = std::min(kBatch, num_grads - first);
    Gradients gradients = {};
    int most = 1;
    for (int g = 0; g < count; ++g) {
      const Operand& grad = ctx.in(1 + first + g);
      gradients.data[g] = grad.data;
      gradients.size[g] = grad.max_elements();
      gradients.bf16[g] = grad.element_size == 2;
      const int pieces = PiecesOf(gradients.size[g]);
      gradients.first_piece[g + 1] = gradients.first_piece[g] + pieces;
      most = std::max(most, pieces);
    }
    SquaresKernel<<<dim3(static_cast<unsigned>(most),
                         static_cast<unsigned>(count)),
                    kBlock, 0, ctx.stream>>>(gradients, of_batch);
    of_batch += gradients.first_piece[count];
  }
  NormKernel<<<1, kBlock, 0, ctx.stream>>>(
      all_pieces, partial, ctx.in(0).as<float>(), ctx.out(0).as<float>());
  return cudaGetLastError();
}

struct AdamWArgs {
  int64_t n = 0;
  void* param = nullptr;  // F32 or BF16, all four alike.
  void* m = nullptr;
  void* v = nullptr;
  const void* grad = nullptr;
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
  float beta1, beta2, lr, eps, weight_decay;

  __device__ __forceinline__ void Update(float g, float& p, float& m,
                                         float& v) const {
    g *= grad_scale;
    m = beta1 * m + (1.f - beta1) * g;
    v = beta2 * v + (1.f - beta2) * g * g;
    const float update = m * m_scale / (sqrtf(v * v_scale) + eps);
    p = p - lr * (update + weight_decay * p);
  }
};

// False if nothing may change. To all threads of a block.
__device__ bool ShareStep(const AdamWArgs& args, AdamWStep& step) {
  __shared__ AdamWStep shared;
  const double norm = *args.norm;
  // A gradient that is NaN or infinite would spoil every weight.
  if (!isfinite(norm)) return false;
  if (threadIdx.x == 0) {
    const int number = *args.step;
    if (number < 1) args.fault.Report(FaultKind::kStep, 0, number, 0);
    shared.grad_scale = static_cast<float>(fmin(1.0, args.max_norm / norm) /
                                           static_cast<double>(*args.divisor));
    shared.m_scale = static_cast<float>(1 / (1 - pow(args.beta1, number)));
    shared.v_scale = static_cast<float>(1 / (1 - pow(args.beta2, number)));
    shared.beta1 = static_cast<float>(args.beta1);
    shared.beta2 = static_cast<float>(args.beta2);
    shared.lr = *args.lr;
    shared.eps = args.eps;
    shared.weight_decay = args.weight_decay;
  }
  __syncthreads();
  step = shared;
  return *args.step >= 1;
}

__global__ void __launch_bounds__(kBlock) AdamWKernel(const AdamWArgs args) {
  AdamWStep step;
  if (!ShareStep(args, step)) return;
  auto* const param = static_cast<float*>(args.param);
  auto* const m = static_cast<float*>(args.m);
  auto* const v = static_cast<float*>(args.v);
  const auto* const grad = static_cast<const float*>(args.grad);
  for (int64_t i = FirstElement(); i < args.n; i += ElementStride()) {
    step.Update(grad[i], param[i], m[i], v[i]);
  }
}

// Bits for element i of a step: two multiplications of Murmur3's finaliser.
__device__ __forceinline__ uint32_t RandomBits(uint32_t seed, int64_t i) {
  uint32_t h = static_cast<uint32_t>(i) ^
               static_cast<uint32_t>(i >> 32) * 0x9e3779b9u ^ seed;
  h = (h ^ (h >> 16)) * 0x85ebca6bu;
  h = (h ^ (h >> 13)) * 0xc2b2ae35u;
  return h ^ (h >> 16);
}

// x, of which the lower half is cut off after the lower half of `random` was
// added: BF16 as the upper half of a float.
__device__ __forceinline__ uint32_t RoundAtRandom(float x, uint32_t random) {
  const uint32_t bits = __float_as_uint(x);
  const bool finite = (bits & 0x7f800000u) != 0x7f800000u;
  return (bits + (finite ? random & 0xffff : 0)) & 0xffff0000u;
}

// A thread eight elements at a time: 112 bytes. Bound by these.
__global__ void __launch_bounds__(kBlock)
    AdamWBf16Kernel(const AdamWArgs args) {
  AdamWStep step;
  if (!ShareStep(args, step)) return;
  auto* const param = static_cast<__nv_bfloat16*>(args.param);
  auto* const m = static_cast<__nv_bfloat16*>(args.m);
  auto* const v = static_cast<__nv_bfloat16*>(args.v);
  const auto* const grad = static_cast<const __nv_bfloat16*>(args.grad);
  const uint32_t seed = static_cast<uint32_t>(*args.step) * 0x9e3779b9u;
  const auto update = [&](int64_t i, float g, float& p, float& m_i,
                          float& v_i) {
    step.Update(g, p, m_i, v_i);
    const uint32_t random = RandomBits(seed, i);
    p = __uint_as_float(RoundAtRandom(p, random));
    m_i = __uint_as_float(RoundAtRandom(m_i, random >> 16));
    v_i = __uint_as_float(RoundAtRandom(v_i, random * 0x9e3779b1u >> 16));
  };
  for (int64_t i = FirstElement(); i < args.n / 8; i += ElementStride()) {
    float g8[8], p8[8], m8[8], v8[8];
    Load8(grad + 8 * i, g8);
    Load8(param + 8 * i, p8);
    Load8(m + 8 * i, m8);
    Load8(v + 8 * i, v8);
#pragma unroll
    for (int j = 0; j < 8; ++j) update(8 * i + j, g8[j], p8[j], m8[j], v8[j]);
    // Exact: they are rounded.
    Store8(p8, param + 8 * i);
    Store8(m8, m + 8 * i);
    Store8(v8, v + 8 * i);
  }
  for (int64_t i = args.n / 8 * 8 + FirstElement(); i < args.n;
       i += ElementStride()) {
    float p_i = param[i], m_i = m[i], v_i = v[i];
    update(i, grad[i], p_i, m_i, v_i);
    param[i] = p_i;
    m[i] = m_i;
    v[i] = v_i;
  }
}

cudaError_t RunAdamW(const KernelContext& ctx) {
  AdamWArgs args;
  args.n = ctx.in(0).max_elements();
  args.param = ctx.in(0).data;
  args.m = ctx.in(1).data;
  args.v = ctx.in(2).data;
  args.grad = ctx.in(3).data;
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
  if (ctx.in(0).element_size == 2) {
    AdamWBf16Kernel<<<BlocksFor(args.n, 8), kBlock, 0, ctx.stream>>>(args);
  } else {
    AdamWKernel<<<BlocksFor(args.n, 4), kBlock, 0, ctx.stream>>>(args);
  }
  return cudaGetLastError();
}

}  // namespace

cudaError_t AddToSum(const Operand& sum, const float* value, const float* keep,
                     cudaStream_t stream) {
  return AddTo(sum, value, keep, stream);
}

void RegisterOptimizerKernels(KernelRegistry& kernels) {
  kernels.Register("Accumulate", RunAccumulate);
  kernels.Register("AccumulateCounts", RunAccumulateCounts);
  kernels.Register("GlobalNorm", RunGlobalNorm);
  kernels.Register("AdamW", RunAdamW);
}

}  // namespace strata::gpu
