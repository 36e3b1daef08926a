// What a thread has of a product of w by x in the tensor cores, to y.

#ifndef CUDA_KERNELS_QUANT_STORE_CUH_
#define CUDA_KERNELS_QUANT_STORE_CUH_

#include <cstdint>

#include "cuda/kernels/row_tiles.cuh"

namespace strata::gpu {

// Sums of two rows of x, `row` of the tile and the next, by rows `column` and
// `column` + 8 of w: v.x and v.y, v.z and v.w. Those that there are.
__device__ __forceinline__ void StoreFour(float* y, int64_t n,
                                          const RowTile& tile, int row,
                                          int64_t column, float4 v) {
  float* const to = y + (tile.row + row) * n + column;
  const bool one = row < tile.num_rows, two = row + 1 < tile.num_rows;
  if (column < n) {
    if (one) to[0] = v.x;
    if (two) to[n] = v.y;
  }
  if (column + 8 < n) {
    if (one) to[8] = v.z;
    if (two) to[n + 8] = v.w;
  }
}

// The same of [.., n] at `from`, 0 where there are none.
__device__ __forceinline__ float4 LoadFour(const float* from, int64_t n,
                                           const RowTile& tile, int row,
                                           int64_t column) {
  const float* const at = from + (tile.row + row) * n + column;
  const bool one = row < tile.num_rows, two = row + 1 < tile.num_rows;
  const bool near = column < n, far = column + 8 < n;
  return {near && one ? at[0] : 0, near && two ? at[n] : 0,
          far && one ? at[8] : 0, far && two ? at[n + 8] : 0};
}

}  // namespace strata::gpu

#endif  // CUDA_KERNELS_QUANT_STORE_CUH_
