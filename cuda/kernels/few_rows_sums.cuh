// How the warps of a streamed product (few_rows_stream.cuh) share its pairs of
// chunks, and what they have of a tile's sums is joined.

#ifndef CUDA_KERNELS_FEW_ROWS_SUMS_CUH_
#define CUDA_KERNELS_FEW_ROWS_SUMS_CUH_

#include <cstdint>

#include "cuda/kernels/bare_codes.cuh"
#include "cuda/kernels/few_rows_operands.cuh"
#include "cuda/kernels/quant_product.h"
#include "cuda/kernels/quant_store.cuh"
#include "cuda/kernels/row_tiles.cuh"
#include "cuda/kernels/sm90.cuh"

namespace strata::gpu {

struct StreamShape {
  int splits = 1, bands = 1;
  int slots = 1;  // Of sums, of a block.
  // [tiles of rows][bands][splits][slots][m][u][lane][4]
  float* sums = nullptr;
};

// Vectors of four sums that a tile has.
template <int kProducts>
constexpr int kSumsOfTile = 2 * kProducts * 32;

#if STRATA_SM90A

// A block's pairs of chunks, tile by tile, of which each warp has as many as
// the others, or one more, one behind the other: of a first and of a last tile
// often a part.
template <int kWarpsOfBlock>
struct StreamUnits {
  int tiles, share;  // Of the block: tiles, and pairs of each.

  // The first of a warp.
  __device__ __forceinline__ int First(int warp) const {
    return tiles * share * warp / kWarpsOfBlock;
  }
  // The warp that has a unit.
  __device__ __forceinline__ int Owner(int unit) const {
    return ((unit + 1) * kWarpsOfBlock - 1) / (tiles * share);
  }
};

// Where a tile's sums lie, among those of a block: a slot for each warp that
// has any of it, warp behind warp. Other tiles' are others.
struct StreamSlots {
  int first = 0, count = 0;

  template <int kWarpsOfBlock>
  static __device__ __forceinline__ StreamSlots
  Of(const StreamUnits<kWarpsOfBlock>& units, int tile) {
    const int begin = units.Owner(tile * units.share);
    const int last = units.Owner((tile + 1) * units.share - 1);
    return {begin + tile, last - begin + 1};
  }
};

// Calls run(at, four) for a thread's sums of a tile, of which the first lane's
// lie at `at`.
template <int kProducts, typename Run>
__device__ __forceinline__ void ForSums(float (&total)[2][kProducts][4],
                                        Run run) {
#pragma unroll
  for (int m = 0; m < 2; ++m) {
#pragma unroll
    for (int u = 0; u < kProducts; ++u) {
      float(&v)[4] = total[m][u];
      float4 four = {v[0], v[1], v[2], v[3]};
      run((m * kProducts + u) * 32, four);
      v[0] = four.x, v[1] = four.y, v[2] = four.z, v[3] = four.w;
    }
  }
}

__device__ __forceinline__ void AddTo(float4& sum, const float4& v) {
  sum.x += v.x, sum.y += v.y, sum.z += v.z, sum.w += v.w;
}

// Vector `at` of a tile to y.
template <int kProducts>
__device__ __forceinline__ void StoreSums(const QuantProductArgs& args,
                                          const RowTile& rows, int tile, int at,
                                          float4 v) {
  v.x *= kScaleOfSums, v.y *= kScaleOfSums;
  v.z *= kScaleOfSums, v.w *= kScaleOfSums;
  const int lane = at % 32, u = at / 32 % kProducts, m = at / 32 / kProducts;
  const int64_t column = int64_t{tile} * kWarpRows + m * 16 + RowOfLane(lane);
  StoreFour(args.y, args.w.n, rows, u * kRows + lane % 4 * 2, column, v);
}

// What a tile's sums are made of: blocks of a cluster have as many pairs of a
// row as the others, or one more.
struct StreamParts {
  StreamSlots some, more;

  template <int kWarpsOfBlock>
  static __device__ __forceinline__ StreamParts Of(int tiles, int share,
                                                   int tile) {
    return {
        StreamSlots::Of(StreamUnits<kWarpsOfBlock>{tiles, share}, tile),
        StreamSlots::Of(StreamUnits<kWarpsOfBlock>{tiles, share + 1}, tile)};
  }
};

// Vector `at` of a tile: what the warps of a cluster's blocks have of it, in
// their order. `have_more`: blocks that have one more pair.
template <int kProducts>
__device__ __forceinline__ float4 JoinVector(const float4* sums, int at,
                                             const StreamShape& shape,
                                             const StreamParts& parts,
                                             uint32_t have_more) {
  constexpr int kVectors = kSumsOfTile<kProducts>;
  constexpr int kLoads = 12;  // At a time: they wait.
  float4 sum = {0, 0, 0, 0};
  const float4* from = sums + at + parts.some.first * kVectors;
  const int pitch = shape.slots * kVectors;
  const int more_on = (parts.more.first - parts.some.first) * kVectors;
  int split = 0, of_split = 0;
  while (split < shape.splits) {
    float4 v[kLoads];
    int there = 0;
#pragma unroll
    for (int j = 0; j < kLoads; ++j) {
      if (split == shape.splits) continue;
      const bool more = have_more >> split & 1;
      v[j] = __ldcg(from + of_split * kVectors + (more ? more_on : 0));
      there = j + 1;
      if (++of_split < (more ? parts.more.count : parts.some.count)) continue;
      of_split = 0;
      ++split;
      from += pitch;
    }
#pragma unroll
    for (int j = 0; j < kLoads; ++j) {
      if (j < there) AddTo(sum, v[j]);
    }
  }
  return sum;
}

#endif  // STRATA_SM90A

}  // namespace strata::gpu

#endif  // CUDA_KERNELS_FEW_ROWS_SUMS_CUH_
