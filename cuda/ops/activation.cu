#include <cstdint>

#include "cuda/ops/activation.h"
#include "cuda/ops/bf16/rows.h"
#include "cuda/ops/bf16/with_type.h"
#include "cuda/ops/device.cuh"
#include "cuda/runtime/kernel.h"

namespace strata::gpu {
namespace {

// h [r, 2n] = [gate | up] -> y [r, n] = silu(gate) * up
__global__ void __launch_bounds__(kBlock)
    SwiGluKernel(Extent rows, int64_t n, const float* h, float* y) {
  const int64_t size = rows.Get() * n;
  for (int64_t i = FirstElement(); i < size; i += ElementStride()) {
    const int64_t at = i / n * 2 * n + i % n;
    const float gate = h[at];
    y[i] = gate * SigmoidOf(gate) * h[at + n];
  }
}

}  // namespace

cudaError_t RunSwiGlu(const KernelContext& ctx) {
  if (HasBf16(ctx)) return SwiGluMixed(ctx);
  const Operand& y = ctx.out(0);
  SwiGluKernel<<<BlocksFor(y.max_elements()), kBlock, 0, ctx.stream>>>(
      ctx.in(0).rows(), y.dim(1), ctx.in(0).as<float>(), y.as<float>());
  return cudaGetLastError();
}

namespace {

__global__ void __launch_bounds__(kBlock)
    SwiGluGradKernel(Extent rows, int64_t n, const float* dy, const float* h,
                     float* dh) {
  const int64_t size = rows.Get() * n;
  for (int64_t i = FirstElement(); i < size; i += ElementStride()) {
    const int64_t at = i / n * 2 * n + i % n;
    const float gate = h[at], up = h[at + n], d = dy[i];
    const float s = SigmoidOf(gate);
    dh[at] = d * up * s * (1.f + gate * (1.f - s));
    dh[at + n] = d * gate * s;
  }
}

cudaError_t RunSwiGluGrad(const KernelContext& ctx) {
  if (HasBf16(ctx)) return SwiGluGradMixed(ctx);
  const Operand& dy = ctx.in(0);
  SwiGluGradKernel<<<BlocksFor(dy.max_elements()), kBlock, 0, ctx.stream>>>(
      dy.rows(), dy.dim(1), dy.as<float>(), ctx.in(1).as<float>(),
      ctx.out(0).as<float>());
  return cudaGetLastError();
}

__global__ void __launch_bounds__(kBlock)
    SigmoidKernel(Extent rows, int64_t columns, const float* x, float* y) {
  const int64_t n = rows.Get() * columns;
  for (int64_t i = FirstElement(); i < n; i += ElementStride()) {
    y[i] = SigmoidOf(x[i]);
  }
}

}  // namespace

cudaError_t RunSigmoid(const KernelContext& ctx) {
  const Operand& x = ctx.in(0);
  SigmoidKernel<<<BlocksFor(x.max_elements()), kBlock, 0, ctx.stream>>>(
      x.rows(), x.columns(), x.as<float>(), ctx.out(0).as<float>());
  return cudaGetLastError();
}

namespace {

__global__ void __launch_bounds__(kBlock)
    SigmoidGradKernel(Extent rows, int64_t columns, const float* dy,
                      const float* y, float* dx) {
  const int64_t n = rows.Get() * columns;
  for (int64_t i = FirstElement(); i < n; i += ElementStride()) {
    dx[i] = dy[i] * y[i] * (1.f - y[i]);
  }
}

cudaError_t RunSigmoidGrad(const KernelContext& ctx) {
  const Operand& dy = ctx.in(0);
  SigmoidGradKernel<<<BlocksFor(dy.max_elements()), kBlock, 0, ctx.stream>>>(
      dy.rows(), dy.columns(), dy.as<float>(), ctx.in(1).as<float>(),
      ctx.out(0).as<float>());
  return cudaGetLastError();
}

// A warp a row, which it reads three times: from its cache all but the first.
__global__ void __launch_bounds__(kBlock)
    MaskedSoftmaxKernel(Extent rows, int64_t n, float scale, const float* x,
                        const uint8_t* mask, float* y) {
  const int64_t t = rows.Get();
  for (int64_t i = FirstRow(); i < t; i += RowStride()) {
    const float* const from = x + i * n;
    const uint8_t* const open = mask != nullptr ? mask + i * n : nullptr;
    const auto at = [&](int64_t j) {
      return open == nullptr || open[j] != 0 ? scale * from[j] : -INFINITY;
    };
    float max = -INFINITY;
    for (int64_t j = Lane(); j < n; j += kWarp) max = fmaxf(max, at(j));
    max = WarpMax(max);
    float sum = 0;
    if (max > -INFINITY) {
      for (int64_t j = Lane(); j < n; j += kWarp) sum += expf(at(j) - max);
    }
    sum = WarpSum(sum);
    const float share = sum > 0 ? 1.f / sum : 0.f;
    for (int64_t j = Lane(); j < n; j += kWarp) {
      y[i * n + j] = max > -INFINITY ? expf(at(j) - max) * share : 0.f;
    }
  }
}

}  // namespace

cudaError_t RunMaskedSoftmax(const KernelContext& ctx) {
  const Operand& x = ctx.in(0);
  MaskedSoftmaxKernel<<<BlocksForRows(x.dim(0)), kBlock, 0, ctx.stream>>>(
      x.rows(), x.dim(1), ctx.Float("scale"), x.as<float>(),
      ctx.has(1) ? ctx.in(1).as<uint8_t>() : nullptr, ctx.out(0).as<float>());
  return cudaGetLastError();
}

namespace {

// Masked columns have y = 0, so their gradient is 0 without the mask.
__global__ void __launch_bounds__(kBlock)
    MaskedSoftmaxGradKernel(Extent rows, int64_t n, float scale,
                            const float* dy, const float* y, float* dx) {
  const int64_t t = rows.Get();
  for (int64_t i = FirstRow(); i < t; i += RowStride()) {
    float dot = 0;
    for (int64_t j = Lane(); j < n; j += kWarp) {
      dot = fmaf(dy[i * n + j], y[i * n + j], dot);
    }
    dot = WarpSum(dot);
    for (int64_t j = Lane(); j < n; j += kWarp) {
      dx[i * n + j] = scale * y[i * n + j] * (dy[i * n + j] - dot);
    }
  }
}

cudaError_t RunMaskedSoftmaxGrad(const KernelContext& ctx) {
  const Operand& dy = ctx.in(0);
  MaskedSoftmaxGradKernel<<<BlocksForRows(dy.dim(0)), kBlock, 0, ctx.stream>>>(
      dy.rows(), dy.dim(1), ctx.Float("scale"), dy.as<float>(),
      ctx.in(1).as<float>(), ctx.out(0).as<float>());
  return cudaGetLastError();
}

}  // namespace

void RegisterActivationKernels(KernelRegistry& kernels) {
  kernels.Register("SwiGlu", RunSwiGlu);
  kernels.Register("SwiGluGrad", RunSwiGluGrad);
  kernels.Register("Sigmoid", RunSigmoid);
  kernels.Register("SigmoidGrad", RunSigmoidGrad);
  kernels.Register("MaskedSoftmax", RunMaskedSoftmax);
  kernels.Register("MaskedSoftmaxGrad", RunMaskedSoftmaxGrad);
}

}  // namespace strata::gpu
