// Dots of a row with rows of a weight: products of few rows, which read the
// weight once and are bound by that.

#ifndef CUDA_OPS_ROW_DOTS_CUH_
#define CUDA_OPS_ROW_DOTS_CUH_

#include <cstdint>

#include "cuda/ops/device.cuh"
#include "cuda/ops/vector16.cuh"
#include "cuda_bf16.h"

namespace strata::gpu {

// sum[r] = dot(x + r * k, w) over k columns for r < kRows, by one warp, to all
// its lanes. `wide` says that rows of w and x are whole, aligned 16-byte
// vectors of W. The order of a sum depends on k and W alone, so that a row is
// the same bit for bit whichever rows come with it.
template <int kRows, typename W>
__device__ __forceinline__ void RowDots(const float* x, const W* w, int64_t k,
                                        bool wide, float (&sum)[kRows]) {
#pragma unroll
  for (int r = 0; r < kRows; ++r) sum[r] = 0;
  if (wide) {
    constexpr int n = kVector<W>;
#pragma unroll 4
    for (int64_t p = Lane() * n; p < k; p += kWarp * n) {
      float weight[n];
      Unpack(__ldg(reinterpret_cast<const uint4*>(w + p)), weight);
#pragma unroll
      for (int r = 0; r < kRows; ++r) {
#pragma unroll
        for (int j = 0; j < n; j += 4) {
          const float4 v = *reinterpret_cast<const float4*>(x + r * k + p + j);
          sum[r] = fmaf(v.x, weight[j], sum[r]);
          sum[r] = fmaf(v.y, weight[j + 1], sum[r]);
          sum[r] = fmaf(v.z, weight[j + 2], sum[r]);
          sum[r] = fmaf(v.w, weight[j + 3], sum[r]);
        }
      }
    }
  } else {
    for (int64_t p = Lane(); p < k; p += kWarp) {
      const float weight = static_cast<float>(w[p]);
#pragma unroll
      for (int r = 0; r < kRows; ++r) {
        sum[r] = fmaf(x[r * k + p], weight, sum[r]);
      }
    }
  }
#pragma unroll
  for (int r = 0; r < kRows; ++r) sum[r] = WarpSum(sum[r]);
}

// Whether RowDots may take vectors of rows of k elements.
template <typename W>
bool IsWide(const float* x, const W* w, int64_t k) {
  return k % kVector<W> == 0 && IsAligned(x) && IsAligned(w);
}

}  // namespace strata::gpu

#endif  // CUDA_OPS_ROW_DOTS_CUH_
