// Packed sequences cut into tiles of rows that do not cross from one sequence
// to the next.

#ifndef CUDA_KERNELS_SEQUENCE_TILES_CUH_
#define CUDA_KERNELS_SEQUENCE_TILES_CUH_

#include <cstdint>

namespace strata::gpu {

struct SequenceTile {
  int begin = 0, end = 0;  // Of the sequence, in rows.
  int first = 0;           // Row of the tile, in the sequence.
};

// How many tiles of kRows rows there are, and whether all sequences have as
// many of them. By whole warps.
struct TileCount {
  int tiles = 0;
  bool alike = true;
};
template <int kRows>
__device__ __forceinline__ TileCount
CountSequenceTiles(const int32_t* seq_start, int num_sequences, int tokens) {
  int sum = 0, least = INT32_MAX, most = 0;
  for (int s = threadIdx.x % 32; s < num_sequences; s += 32) {
    const int begin = min(max(seq_start[s], 0), tokens);
    const int end = min(max(seq_start[s + 1], begin), tokens);
    const int tiles = (end - begin + kRows - 1) / kRows;
    sum += tiles;
    least = min(least, tiles);
    most = max(most, tiles);
  }
  return {__reduce_add_sync(0xffffffff, sum),
          __reduce_min_sync(0xffffffff, least) ==
              __reduce_max_sync(0xffffffff, most)};
}

// Finds tile `index` of those of kRows rows, counted sequence by sequence;
// false if there are fewer. Starts are held to [0, tokens]. By whole warps.
template <int kRows>
__device__ __forceinline__ bool FindSequenceTile(const int32_t* seq_start,
                                                 int num_sequences, int tokens,
                                                 int index,
                                                 SequenceTile& tile) {
  const int lane = threadIdx.x % 32;
  for (int base = 0; base < num_sequences; base += 32) {
    const int s = base + lane;
    const bool there = s < num_sequences;
    const int begin = there ? min(max(seq_start[s], 0), tokens) : 0;
    const int end = there ? min(max(seq_start[s + 1], begin), tokens) : 0;
    const int tiles = there ? (end - begin + kRows - 1) / kRows : 0;
    int up_to = tiles;
#pragma unroll
    for (int d = 1; d < 32; d *= 2) {
      const int before = __shfl_up_sync(0xffffffff, up_to, d);
      if (lane >= d) up_to += before;
    }
    const int total = __shfl_sync(0xffffffff, up_to, 31);
    if (index >= total) {
      index -= total;
      continue;
    }
    const int owner = __ffs(__ballot_sync(0xffffffff, up_to > index)) - 1;
    const int before = __shfl_sync(0xffffffff, up_to - tiles, owner);
    tile.begin = __shfl_sync(0xffffffff, begin, owner);
    tile.end = __shfl_sync(0xffffffff, end, owner);
    tile.first = (index - before) * kRows;
    return true;
  }
  return false;
}

}  // namespace strata::gpu

#endif  // CUDA_KERNELS_SEQUENCE_TILES_CUH_
