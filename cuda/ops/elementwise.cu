#include <cstdint>

#include "cuda/ops/bf16/rows.h"
#include "cuda/ops/bf16/with_type.h"
#include "cuda/ops/device.cuh"
#include "cuda/ops/elementwise.h"
#include "cuda/runtime/kernel.h"

namespace strata::gpu {
namespace {

// y[i] = f(x[i], z[i]), four elements at a time where addresses allow. Memory
// of whole tensors is aligned; only the last elements are done one by one.
template <typename Fn>
__global__ void __launch_bounds__(kBlock)
    MapKernel(Extent rows, int64_t columns, const float* x, const float* z,
              float* y, Fn fn) {
  const int64_t n = rows.Get() * columns;
  const int64_t fours = n / 4;
  for (int64_t i = FirstElement(); i < fours; i += ElementStride()) {
    const float4 a = reinterpret_cast<const float4*>(x)[i];
    const float4 b = reinterpret_cast<const float4*>(z)[i];
    reinterpret_cast<float4*>(y)[i] = {fn(a.x, b.x), fn(a.y, b.y), fn(a.z, b.z),
                                       fn(a.w, b.w)};
  }
  for (int64_t i = 4 * fours + FirstElement(); i < n; i += ElementStride()) {
    y[i] = fn(x[i], z[i]);
  }
}

template <typename Fn>
cudaError_t Map(const KernelContext& ctx, const Operand& x, const Operand& z,
                Fn fn) {
  MapKernel<<<BlocksFor(x.max_elements(), 4), kBlock, 0, ctx.stream>>>(
      x.rows(), x.columns(), x.as<float>(), z.as<float>(),
      ctx.out(0).as<float>(), fn);
  return cudaGetLastError();
}

struct Sum {
  __device__ float operator()(float a, float b) const { return a + b; }
};
struct Times {
  float factor;
  __device__ float operator()(float a, float) const { return factor * a; }
};

}  // namespace

cudaError_t RunAdd(const KernelContext& ctx) {
  if (HasBf16(ctx)) return AddMixed(ctx);
  return Map(ctx, ctx.in(0), ctx.in(1), Sum{});
}

namespace {

cudaError_t RunScale(const KernelContext& ctx) {
  return Map(ctx, ctx.in(0), ctx.in(0), Times{ctx.Float("factor")});
}

__global__ void FillKernel(float value, float* y) { *y = value; }

cudaError_t RunFill(const KernelContext& ctx) {
  FillKernel<<<1, 1, 0, ctx.stream>>>(ctx.Float("value"),
                                      ctx.out(0).as<float>());
  return cudaGetLastError();
}

// y [t, n] = x [t, n] + bias [n]
__global__ void __launch_bounds__(kBlock)
    AddBiasKernel(Extent rows, int64_t n, const float* x, const float* bias,
                  float* y) {
  const int64_t size = rows.Get() * n;
  for (int64_t i = FirstElement(); i < size; i += ElementStride()) {
    y[i] = x[i] + bias[i % n];
  }
}

}  // namespace

cudaError_t RunAddBias(const KernelContext& ctx) {
  const Operand& x = ctx.in(0);
  AddBiasKernel<<<BlocksFor(x.max_elements()), kBlock, 0, ctx.stream>>>(
      x.rows(), x.dim(1), x.as<float>(), ctx.in(1).as<float>(),
      ctx.out(0).as<float>());
  return cudaGetLastError();
}

namespace {

// Rows that a block adds up in SumRows; then the blocks' sums are added.
constexpr int64_t kMaxPieces = 128;
constexpr int64_t kMinPieceRows = 32;

// partial [pieces, n]: the sum of the rows of one piece, a column a lane; warp
// w takes every eighth row, and warps are added in order.
__global__ void __launch_bounds__(kBlock)
    SumPiecesKernel(Extent rows, int64_t n, int64_t piece_rows, const float* x,
                    float* partial) {
  const int warp = threadIdx.x / kWarp;
  const int64_t column = int64_t{blockIdx.x} * kWarp + Lane();
  const int64_t begin = blockIdx.y * piece_rows;
  const int64_t end = min(begin + piece_rows, rows.Get());
  float sum = 0;
  if (column < n) {
    for (int64_t i = begin + warp; i < end; i += kWarpsPerBlock) {
      sum += x[i * n + column];
    }
  }
  __shared__ float warp_sum[kWarpsPerBlock][kWarp];
  warp_sum[warp][Lane()] = sum;
  __syncthreads();
  if (warp != 0 || column >= n) return;
  float total = 0;
#pragma unroll
  for (int w = 0; w < kWarpsPerBlock; ++w) total += warp_sum[w][Lane()];
  partial[blockIdx.y * n + column] = total;
}

cudaError_t RunSumRows(const KernelContext& ctx) {
  const Operand& x = ctx.in(0);
  const int64_t n = x.dim(1);
  float* const y = ctx.out(0).as<float>();
  const int64_t pieces =
      std::clamp<int64_t>(CeilDiv(x.dim(0), kMinPieceRows), 1, kMaxPieces);
  const auto strips = static_cast<unsigned>(CeilDiv(n, kWarp));
  float* const partial = pieces > 1 ? ctx.Take<float>(pieces * n) : y;
  if (partial == nullptr) return cudaErrorMemoryAllocation;
  SumPiecesKernel<<<dim3(strips, pieces), kBlock, 0, ctx.stream>>>(
      x.rows(), n, std::max<int64_t>(1, CeilDiv(x.dim(0), pieces)),
      x.as<float>(), partial);
  if (pieces > 1) {
    SumPiecesKernel<<<dim3(strips, 1), kBlock, 0, ctx.stream>>>(
        Extent{pieces}, n, pieces, partial, y);
  }
  return cudaGetLastError();
}

// y [t, width]: columns [first, first + width) of x [t, n].
__global__ void __launch_bounds__(kBlock)
    SliceColumnsKernel(Extent rows, int64_t n, int64_t first, int64_t width,
                       const float* x, float* y) {
  const int64_t size = rows.Get() * width;
  for (int64_t i = FirstElement(); i < size; i += ElementStride()) {
    y[i] = x[i / width * n + first + i % width];
  }
}

cudaError_t RunSliceColumns(const KernelContext& ctx) {
  const Operand& x = ctx.in(0);
  const Operand& y = ctx.out(0);
  SliceColumnsKernel<<<BlocksFor(y.max_elements()), kBlock, 0, ctx.stream>>>(
      x.rows(), x.dim(1), ctx.Int("begin"), y.dim(1), x.as<float>(),
      y.as<float>());
  return cudaGetLastError();
}

// y [t, n] = x [t, width] at column `first`, zero elsewhere.
__global__ void __launch_bounds__(kBlock)
    PlaceColumnsKernel(Extent rows, int64_t n, int64_t first, int64_t width,
                       const float* x, float* y) {
  const int64_t size = rows.Get() * n;
  for (int64_t i = FirstElement(); i < size; i += ElementStride()) {
    const int64_t column = i % n - first;
    y[i] = column >= 0 && column < width ? x[i / n * width + column] : 0.f;
  }
}

cudaError_t RunPlaceColumns(const KernelContext& ctx) {
  const Operand& x = ctx.in(0);
  const Operand& y = ctx.out(0);
  PlaceColumnsKernel<<<BlocksFor(y.max_elements()), kBlock, 0, ctx.stream>>>(
      x.rows(), y.dim(1), ctx.Int("begin"), x.dim(1), x.as<float>(),
      y.as<float>());
  return cudaGetLastError();
}

}  // namespace

void RegisterElementwiseKernels(KernelRegistry& kernels) {
  kernels.Register("Add", RunAdd);
  kernels.Register("AddBias", RunAddBias);
  kernels.Register("SumRows", RunSumRows);
  kernels.Register("Scale", RunScale);
  kernels.Register("Fill", RunFill);
  kernels.Register("SliceColumns", RunSliceColumns);
  kernels.Register("PlaceColumns", RunPlaceColumns);
}

}  // namespace strata::gpu
