#include <cstdint>

#include "cuda/ops/bf16/eight.cuh"
#include "cuda/ops/bf16/either_rows.h"
#include "cuda/ops/bf16/norm.h"
#include "cuda/ops/bf16/with_type.h"
#include "cuda/ops/device.cuh"
#include "cuda/runtime/kernel.h"
#include "cuda_bf16.h"

namespace strata::gpu {
namespace {

// A warp a group of `width` columns, which it reads twice, the second time from
// a cache; `groups` of them in a row.
__global__ void __launch_bounds__(kBlock)
    NormKernel(Extent rows, int64_t groups, int64_t width, float eps,
               const float* __restrict__ x, const float* __restrict__ gain,
               __nv_bfloat16* __restrict__ y, float* __restrict__ rstd) {
  const int64_t count = rows.Get() * groups;
  for (int64_t r = FirstRow(); r < count; r += RowStride()) {
    const float* const from = x + r * width;
    float sum = 0;
#pragma unroll 4
    for (int64_t c = Lane() * 8; c < width; c += kWarp * 8) {
      float e[8];
      Load8(from + c, e);
#pragma unroll
      for (float value : e) sum = fmaf(value, value, sum);
    }
    const float scale = rsqrtf(WarpSum(sum) / static_cast<float>(width) + eps);
    if (Lane() == 0) rstd[r] = scale;
#pragma unroll 4
    for (int64_t c = Lane() * 8; c < width; c += kWarp * 8) {
      float e[8], g[8];
      Load8(from + c, e);
      Load8(gain + c, g);
#pragma unroll
      for (int i = 0; i < 8; ++i) e[i] *= scale * g[i];
      Store8(e, y + r * width + c);
    }
  }
}

// With xhat = x * rstd: dx = rstd * (g * dy - xhat * mean(g * dy * xhat)), plus
// a or a + b. As above.
template <typename DY, typename DX>
__global__ void __launch_bounds__(kBlock)
    InputGradKernel(Extent rows, int64_t groups, int64_t width,
                    const DY* __restrict__ dy, const float* __restrict__ x,
                    const float* __restrict__ gain,
                    const float* __restrict__ rstd, EitherRows a, EitherRows b,
                    DX* __restrict__ dx) {
  const int64_t count = rows.Get() * groups;
  for (int64_t r = FirstRow(); r < count; r += RowStride()) {
    const float scale = rstd[r];
    float sum = 0;
#pragma unroll 2
    for (int64_t c = Lane() * 8; c < width; c += kWarp * 8) {
      float d[8], e[8], g[8];
      Load8(dy + r * width + c, d);
      Load8(x + r * width + c, e);
      Load8(gain + c, g);
#pragma unroll
      for (int i = 0; i < 8; ++i) sum = fmaf(d[i] * g[i], e[i], sum);
    }
    const float slope =
        WarpSum(sum) / static_cast<float>(width) * scale * scale;
#pragma unroll 2
    for (int64_t c = Lane() * 8; c < width; c += kWarp * 8) {
      float d[8], e[8], g[8];
      Load8(dy + r * width + c, d);
      Load8(x + r * width + c, e);
      Load8(gain + c, g);
#pragma unroll
      for (int i = 0; i < 8; ++i) d[i] = scale * (d[i] * g[i] - e[i] * slope);
      if (a.data != nullptr) {
        float add[8], second[8] = {};
        Load8(a, r * width + c, add);
        if (b.data != nullptr) Load8(b, r * width + c, second);
#pragma unroll
        for (int i = 0; i < 8; ++i) d[i] += add[i] + second[i];
      }
      Store8(d, dx + r * width + c);
    }
  }
}

// Rows in at most so many pieces, which are then added in order.
constexpr int64_t kMaxPieces = 128;
constexpr int kStrip = 8 * kWarp;  // Columns of a block.

// partial [pieces, width] = the sum of dy * x * rstd over a piece's rows: eight
// columns a lane; warp w takes every eighth row, and warps are added in order.
template <typename DY>
__global__ void __launch_bounds__(kBlock)
    WeightGradKernel(Extent rows, int64_t groups, int64_t width,
                     int64_t piece_rows, const DY* __restrict__ dy,
                     const float* __restrict__ x,
                     const float* __restrict__ rstd,
                     float* __restrict__ partial) {
  __shared__ float warp_sum[kWarpsPerBlock][kStrip];
  const int warp = threadIdx.x / kWarp;
  const int64_t column = int64_t{blockIdx.x} * kStrip + Lane() * 8;
  const int64_t begin = blockIdx.y * piece_rows;
  const int64_t end = min(begin + piece_rows, rows.Get() * groups);
  float sum[8] = {};
  if (column < width) {
#pragma unroll 2
    for (int64_t r = begin + warp; r < end; r += kWarpsPerBlock) {
      float d[8], e[8];
      Load8(dy + r * width + column, d);
      Load8(x + r * width + column, e);
      const float scale = rstd[r];
#pragma unroll
      for (int i = 0; i < 8; ++i) sum[i] = fmaf(d[i] * scale, e[i], sum[i]);
    }
  }
#pragma unroll
  for (int i = 0; i < 8; ++i) warp_sum[warp][Lane() * 8 + i] = sum[i];
  __syncthreads();
  const int64_t mine = int64_t{blockIdx.x} * kStrip + threadIdx.x;
  if (mine >= width) return;
  float total = 0;
#pragma unroll
  for (int w = 0; w < kWarpsPerBlock; ++w) total += warp_sum[w][threadIdx.x];
  partial[blockIdx.y * width + mine] = total;
}
static_assert(kStrip == kBlock);

__global__ void __launch_bounds__(kBlock)
    AddPiecesKernel(int64_t pieces, int64_t width,
                    const float* __restrict__ partial,
                    float* __restrict__ dgain) {
  const int64_t column = FirstElement();
  if (column >= width) return;
  float sum = 0;
#pragma unroll 8
  for (int64_t p = 0; p < pieces; ++p) sum += partial[p * width + column];
  dgain[column] = sum;
}

cudaError_t RefuseColumns(const KernelContext& ctx) {
  return ctx.Refuse("BF16 rows whose columns are no multiple of 8");
}

}  // namespace

cudaError_t RmsNormInputGradMixed(const KernelContext& ctx) {
  constexpr int kAdd = 4;  // kRmsNormInputGradAdd of core/ops/norm.h
  const Operand& dy = ctx.in(0);
  const Operand& x = ctx.in(1);
  const Operand& dx = ctx.out(0);
  const int64_t width = ctx.in(2).dim(0), groups = x.columns() / width;
  if (width % 8 != 0) return RefuseColumns(ctx);
  WithType(dy, [&](auto* dy_type) {
    WithType(dx, [&](auto* dx_type) {
      InputGradKernel<<<BlocksForRows(x.dim(0) * groups), kBlock, 0,
                        ctx.stream>>>(
          x.rows(), groups, width, dy.as<ElementOf<decltype(dy_type)>>(),
          x.as<float>(), ctx.in(2).as<float>(), ctx.in(3).as<float>(),
          EitherRowsIn(ctx, kAdd), EitherRowsIn(ctx, kAdd + 1),
          dx.as<ElementOf<decltype(dx_type)>>());
    });
  });
  return cudaGetLastError();
}

cudaError_t RmsNormWeightGradMixed(const KernelContext& ctx) {
  const Operand& dy = ctx.in(0);
  const Operand& x = ctx.in(1);
  const int64_t width = ctx.in(2).dim(0), groups = x.columns() / width;
  if (width % 8 != 0) return RefuseColumns(ctx);
  const int64_t rows = x.dim(0) * groups;
  const int64_t pieces =
      std::clamp<int64_t>(CeilDiv(rows, kWarpsPerBlock), 1, kMaxPieces);
  auto* const partial = ctx.Take<float>(pieces * width);
  if (partial == nullptr) return cudaErrorMemoryAllocation;
  const dim3 grid(static_cast<unsigned>(CeilDiv(width, kStrip)),
                  static_cast<unsigned>(pieces));
  WithType(dy, [&](auto* dy_type) {
    WeightGradKernel<<<grid, kBlock, 0, ctx.stream>>>(
        x.rows(), groups, width, CeilDiv(rows, pieces),
        dy.as<ElementOf<decltype(dy_type)>>(), x.as<float>(),
        ctx.in(3).as<float>(), partial);
  });
  AddPiecesKernel<<<static_cast<unsigned>(CeilDiv(width, kBlock)), kBlock, 0,
                    ctx.stream>>>(pieces, width, partial,
                                  ctx.out(0).as<float>());
  return cudaGetLastError();
}

cudaError_t RmsNormToBf16(const KernelContext& ctx) {
  const Operand& x = ctx.in(0);
  const int64_t width = ctx.in(1).dim(0), groups = x.columns() / width;
  if (width % 8 != 0) return RefuseColumns(ctx);
  NormKernel<<<BlocksForRows(x.dim(0) * groups), kBlock, 0, ctx.stream>>>(
      x.rows(), groups, width, ctx.Float("eps"), x.as<float>(),
      ctx.in(1).as<float>(), ctx.out(0).as<__nv_bfloat16>(),
      ctx.out(1).as<float>());
  return cudaGetLastError();
}

}  // namespace strata::gpu
