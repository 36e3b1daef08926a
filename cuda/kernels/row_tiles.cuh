// Rows grouped by expert as tiles: counted expert by expert, the last of an
// expert being short.

#ifndef CUDA_KERNELS_ROW_TILES_CUH_
#define CUDA_KERNELS_ROW_TILES_CUH_

#include <cstdint>

#include "cuda/runtime/fault.h"

namespace strata::gpu {

// Reports where offsets do not rise from 0 to the number of rows. Products go
// wrong then, but stay inside their memory: FindTile() and the rows of a weight
// gradient are held to [0, rows]. By a block.
inline __device__ void CheckOffsets(const int32_t* offset, int num_experts,
                                    int64_t rows, const FaultSink& fault) {
  for (int e = threadIdx.x; e < num_experts; e += blockDim.x) {
    const bool ends_well = e + 1 < num_experts || offset[e + 1] == rows;
    if (offset[e] > offset[e + 1] || offset[0] != 0 || !ends_well) {
      fault.Report(FaultKind::kOffsets, e, offset[e], rows);
    }
  }
}

struct RowTile {
  int expert = 0;
  int64_t row = 0;
  int num_rows = 0;
};

// Finds tile `index`: its expert and rows; false if there are fewer. By whole
// warps.
template <int kTileRows>
__device__ bool FindTile(const int32_t* offset, int num_experts, int64_t rows,
                         int index, RowTile& tile) {
  constexpr int kLanes = 32;
  constexpr unsigned kAll = 0xffffffff;
  const int lane = threadIdx.x % kLanes;
  for (int base = 0; base < num_experts; base += kLanes) {
    const int e = base + lane;
    const int64_t begin = e < num_experts ? min(int64_t{offset[e]}, rows) : 0;
    const int64_t end = e < num_experts ? min(int64_t{offset[e + 1]}, rows) : 0;
    const int tiles =
        end > begin && begin >= 0
            ? static_cast<int>((end - begin + kTileRows - 1) / kTileRows)
            : 0;
    int up_to = tiles;  // Of this expert and those before, in this warp.
#pragma unroll
    for (int d = 1; d < kLanes; d *= 2) {
      const int before = __shfl_up_sync(kAll, up_to, d);
      if (lane >= d) up_to += before;
    }
    const int total = __shfl_sync(kAll, up_to, kLanes - 1);
    if (index >= total) {
      index -= total;
      continue;
    }
    const int owner = __ffs(__ballot_sync(kAll, up_to > index)) - 1;
    const int of_expert = index - __shfl_sync(kAll, up_to - tiles, owner);
    tile.expert = base + owner;
    tile.row = __shfl_sync(kAll, begin, owner) + int64_t{of_expert} * kTileRows;
    tile.num_rows = static_cast<int>(
        min(int64_t{kTileRows}, __shfl_sync(kAll, end, owner) - tile.row));
    return true;
  }
  return false;
}

// Rows of a product, all of them or by expert, in tiles: tile `index`, or false
// if there are fewer. By whole warps.
template <int kTileRows>
__device__ __forceinline__ bool TileOfRows(const int32_t* offset,
                                           int num_experts, int64_t rows,
                                           int index, RowTile& tile) {
  if (num_experts > 0) {
    return FindTile<kTileRows>(offset, num_experts, rows, index, tile);
  }
  tile.row = int64_t{index} * kTileRows;
  tile.num_rows = static_cast<int>(min(int64_t{kTileRows}, rows - tile.row));
  return tile.num_rows > 0;
}

}  // namespace strata::gpu

#endif  // CUDA_KERNELS_ROW_TILES_CUH_
