#include <cstdint>

#include "cuda/ops/bf16/eight.cuh"
#include "cuda/ops/bf16/norm.h"
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

}  // namespace

cudaError_t RmsNormToBf16(const KernelContext& ctx) {
  const Operand& x = ctx.in(0);
  const int64_t width = ctx.in(1).dim(0), groups = x.columns() / width;
  if (width % 8 != 0) {
    return ctx.Refuse("BF16 rows whose columns are no multiple of 8");
  }
  NormKernel<<<BlocksForRows(x.dim(0) * groups), kBlock, 0, ctx.stream>>>(
      x.rows(), groups, width, ctx.Float("eps"), x.as<float>(),
      ctx.in(1).as<float>(), ctx.out(0).as<__nv_bfloat16>(),
      ctx.out(1).as<float>());
  return cudaGetLastError();
}

}  // namespace strata::gpu
