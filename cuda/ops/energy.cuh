// Squares of the slices of a row: what an energy signature is made of.

#ifndef CUDA_OPS_ENERGY_CUH_
#define CUDA_OPS_ENERGY_CUH_

#include <cstdint>

#include "cuda/ops/device.cuh"

namespace strata::gpu {

// squares[g] = the sum of squares of slice g of a row, by a warp: a lane a
// slice where slices are narrow, the warp a slice where they are wide.
__device__ __forceinline__ void SliceSquares(const float* row, int groups,
                                             int64_t width, float* squares) {
  if (width < kWarp) {
    for (int g = Lane(); g < groups; g += kWarp) {
      float sum = 0;
      for (int64_t j = 0; j < width; ++j) {
        sum = fmaf(row[g * width + j], row[g * width + j], sum);
      }
      squares[g] = sum;
    }
  } else {
    for (int g = 0; g < groups; ++g) {
      float sum = 0;
      for (int64_t j = Lane(); j < width; j += kWarp) {
        sum = fmaf(row[g * width + j], row[g * width + j], sum);
      }
      sum = WarpSum(sum);
      if (Lane() == 0) squares[g] = sum;
    }
  }
  __syncwarp();
}

// The sum of `n` floats, by a warp, to all its lanes.
__device__ __forceinline__ float SumOf(const float* x, int n) {
  float sum = 0;
  for (int i = Lane(); i < n; i += kWarp) sum += x[i];
  return WarpSum(sum);
}

// s_g = sqrt(2 width) * (sqrt(groups share_g) - 1).
__device__ __forceinline__ void Signature(const float* row, int groups,
                                          int64_t width, float* squares,
                                          float* s) {
  SliceSquares(row, groups, width, squares);
  const float sum = SumOf(squares, groups);
  const float scale = sqrtf(2.f * static_cast<float>(width));
  for (int g = Lane(); g < groups; g += kWarp) {
    s[g] = sum > 0 ? scale * (sqrtf(groups * squares[g] / sum) - 1.f) : 0.f;
  }
}

// The gradient of a row by its signature's, by a warp. With r_g the norm of
// slice g, r that of the row:
//   dx_i = sqrt(2 columns) x_i (ds_g / (r_g r) - sum_h(ds_h r_h) / r^3).
__device__ __forceinline__ void SignatureGrad(const float* ds, const float* row,
                                              int groups, int64_t width,
                                              float* squares, float* dx) {
  const int64_t columns = groups * width;
  const float scale = sqrtf(2.f * static_cast<float>(columns));
  SliceSquares(row, groups, width, squares);
  const float sum = SumOf(squares, groups);
  float dot = 0;
  for (int g = Lane(); g < groups; g += kWarp) {
    dot = fmaf(ds[g], sqrtf(squares[g]), dot);
  }
  dot = WarpSum(dot);
  const float all = sqrtf(sum), pull = sum > 0 ? dot / sum : 0.f;
  for (int64_t c = Lane(); c < columns; c += kWarp) {
    const int g = static_cast<int>(c / width);
    const float norm = sqrtf(squares[g]);
    const float factor = norm > 0 ? scale / all * (ds[g] / norm - pull) : 0.f;
    dx[c] = factor * row[c];
  }
}

}  // namespace strata::gpu

#endif  // CUDA_OPS_ENERGY_CUH_
