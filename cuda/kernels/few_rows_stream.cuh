// The product of up to 16 rows by quantised weights, in BF16 products of
// 16 x 8 x 16 with F32 sums, with x in shared memory throughout. Included where
// it is instantiated.
//
// A block has a share of the columns and a band of tiles of 32 rows of w; a
// warp goes through tiles, with two pairs of chunks always on their way:
//
//   w   --the copy engine--> a warp's ring, from before earlier kernels end on
//   x   --rounded once----> shared memory, rows one behind the other
//   each tile    integers of codes times x, a group's sums times its scale
//   the end      sums of a cluster's blocks, from memory (L2), in their order
//
// Where a block has fewer tiles than warps, warps share a tile's columns too
// (PlanStream), and join their sums through shared memory. Bound by reading w,
// for 16 rows also by taking codes apart and by the wait for x.

#ifndef CUDA_KERNELS_FEW_ROWS_STREAM_CUH_
#define CUDA_KERNELS_FEW_ROWS_STREAM_CUH_

#include <cstdint>

#include "cuda/kernels/active_clusters.h"
#include "cuda/kernels/ahead.cuh"
#include "cuda/kernels/few_rows_multiply.cuh"
#include "cuda/kernels/few_rows_operands.cuh"
#include "cuda/kernels/few_rows_stream.h"
#include "cuda/kernels/few_rows_stream_plan.h"
#include "cuda/kernels/packed_chunk.cuh"
#include "cuda/kernels/quant_product.h"
#include "cuda/kernels/row_tiles.cuh"
#include "cuda/kernels/sm90.cuh"
#include "cuda/kernels/tensor_map.h"
#include "cuda_bf16.h"

namespace strata::gpu {

constexpr int kStreamThreads = kStreamWarps * 32;

// What lies in shared memory before x.
struct StreamRing {
  uint8_t code[kStreamWarps][kSlots][kWarpRows * kPairBytes];
  uint8_t scale[kStreamWarps][kSlots][kWarpRows * kScaleBytes];
};
// With barriers beside it, and what aligns the ring.
constexpr int kStreamBytes = 227 * 1024 - 512;
constexpr int kRingBytes = int{sizeof(StreamRing)} + kSwizzleBytes;

struct StreamShape {
  int splits = 1, depth = 1, bands = 1;
  int bytes_of_x = 0;
  float* sums = nullptr;  // [splits][tiles][m][u][lane][4]
};

// Vectors of four sums that a tile has.
template <int kProducts>
constexpr int kSumsOfTile = 2 * kProducts * 32;

#if STRATA_SM90A

// The next pair of chunks of a warp to ask for.
struct StreamPlace {
  int tile, pair;
  __device__ __forceinline__ void Next(int begin, int end, int tile_warps) {
    if (++pair < end) return;
    pair = begin;
    tile += tile_warps;
  }
};

// Which row of eight a lane has: so that threads of half a warp, which read
// eight bytes each of rows swizzled by pieces of 16, meet in no bank.
__device__ __forceinline__ int RowOfLane(int lane) {
  return lane / 4 % 4 * 2 + lane / 16;
}

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
                                          int num_rows, int tile, int at,
                                          const float4& v) {
  const int lane = at % 32, u = at / 32 % kProducts, m = at / 32 / kProducts;
  const int row = u * kRows + lane % 4 * 2;
  const int64_t n = args.w.n;
  const int64_t column = int64_t{tile} * kWarpRows + m * 16 + RowOfLane(lane);
  float* const to = args.y + row * n + column;
  const bool one = row < num_rows, two = row + 1 < num_rows;
  if (column < n) {
    if (one) to[0] = v.x;
    if (two) to[n] = v.y;
  }
  if (column + 8 < n) {
    if (one) to[8] = v.z;
    if (two) to[n + 8] = v.w;
  }
}

// The sums of the warps that share a tile, to the first of them. `lanes` of
// shared memory is the lane's of the tile.
template <int kProducts>
__device__ __forceinline__ void JoinDepth(int tile_warp, int depth_warp,
                                          int depth, float4* lanes,
                                          float (&total)[2][kProducts][4]) {
  const int barrier = 1 + tile_warp;  // 0 is __syncthreads()'s.
  for (int d = 1; d < depth; ++d) {
    SyncThreads(barrier, depth * 32);  // What lies there has been read.
    if (d == depth_warp) {
      ForSums<kProducts>(total, [&](int at, float4& v) { lanes[at] = v; });
    }
    SyncThreads(barrier, depth * 32);
    if (depth_warp == 0) {
      ForSums<kProducts>(total,
                         [&](int at, float4& v) { AddTo(v, lanes[at]); });
    }
  }
}

// Adds up what the blocks of a cluster have of tiles [first, last), in their
// order; each block has a share.
template <int kProducts>
__device__ __forceinline__ void JoinSplits(const QuantProductArgs& args,
                                           const StreamShape& shape,
                                           int num_rows, int tiles, int first,
                                           int last) {
  constexpr int kMaxSplits = 1 << (kNumClusterSizes - 1);
  constexpr int kVectors = kSumsOfTile<kProducts>;
  const int splits = shape.splits, split = static_cast<int>(blockIdx.x);
  const auto* const sums =
      reinterpret_cast<const float4*>(shape.sums) + int64_t{first} * kVectors;
  const int64_t pitch = int64_t{tiles} * kVectors;  // From split to split.
  const int all = (last - first) * kVectors;
  for (int i = split * kStreamThreads + static_cast<int>(threadIdx.x); i < all;
       i += splits * kStreamThreads) {
    float4 v[kMaxSplits];
#pragma unroll
    for (int s = 0; s < kMaxSplits; ++s) {
      if (s < splits) v[s] = __ldcg(sums + s * pitch + i);
    }
    float4 sum = v[0];
#pragma unroll
    for (int s = 1; s < kMaxSplits; ++s) {
      if (s < splits) AddTo(sum, v[s]);
    }
    StoreSums<kProducts>(args, num_rows, first + i / kVectors, i % kVectors,
                         sum);
  }
}

#endif  // STRATA_SM90A

// Grid: splits (a cluster), bands.
template <int kBits, int kProducts, int kGroupShift>
__global__ void __launch_bounds__(kStreamThreads, 1)
    StreamKernel(const __grid_constant__ QuantProductArgs args,
                 const __grid_constant__ StreamShape shape,
                 const __grid_constant__ CUtensorMap code_map,
                 const __grid_constant__ CUtensorMap scale_map) {
#if STRATA_SM90A
  constexpr int kPairColumns = 2 * kChunkColumns<kBits>;
  constexpr int kVectorsOfChunk = kVectorsOfX<kBits, kProducts, OfX::kRounded>;
  constexpr int kVectors = kSumsOfTile<kProducts>;
  extern __shared__ char memory[];
  __shared__ uint64_t came[kStreamWarps][kSlots];
  auto& ring = *reinterpret_cast<StreamRing*>(
      memory +
      (kSwizzleBytes - SharedAddress(memory) % kSwizzleBytes) % kSwizzleBytes);
  char* const x = reinterpret_cast<char*>(&ring + 1);
  auto* const depth_sums = reinterpret_cast<float4*>(x + shape.bytes_of_x);
  const PackedRows& w = args.w;
  const int warp = static_cast<int>(threadIdx.x) / 32;
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const int depth = shape.depth, tile_warps = kStreamWarps / depth;
  const int tile_warp = warp % tile_warps, depth_warp = warp / tile_warps;
  // This block's tiles of rows of w.
  const auto tiles = static_cast<int>((w.n + kWarpRows - 1) / kWarpRows);
  const auto band = static_cast<int>(blockIdx.y);
  const auto first_tile = static_cast<int>(int64_t{tiles} * band / shape.bands);
  const auto last_tile =
      static_cast<int>(int64_t{tiles} * (band + 1) / shape.bands);
  // Its pairs of chunks, from first_pair on, and this warp's, [begin, end).
  const int pairs = w.code_bytes / kPairBytes, splits = shape.splits;
  const auto split = static_cast<int>(blockIdx.x);
  const int first_pair = pairs * split / splits;
  const int of_block = pairs * (split + 1) / splits - first_pair;
  const int begin = first_pair + of_block * depth_warp / depth;
  const int end = first_pair + of_block * (depth_warp + 1) / depth;
  StreamPlace next = {first_tile + tile_warp, begin};
  // By one thread.
  const auto copy = [&](int slot) {
    const int scale = 2 * (next.pair * kPairColumns >> kGroupShift);
    uint64_t* const barrier = &came[warp][slot];
    const int row = next.tile * kWarpRows;
    ArriveExpecting(barrier, kWarpRows * (kPairBytes + kScaleBytes));
    LoadBox(&code_map, ring.code[warp][slot], barrier, next.pair * kPairBytes,
            row, 0);
    LoadBox(&scale_map, ring.scale[warp][slot], barrier,
            w.code_bytes + scale / kScaleBytes * kScaleBytes, row, 0);
  };
  if (lane == 0) {
#pragma unroll
    for (int i = 0; i < kSlots; ++i) InitBarrier(&came[warp][i], 1);
    FenceBarrierInit();
  }
  __syncwarp();
  int asked = 0;
  for (; asked < kSlots && next.tile < last_tile; ++asked) {
    if (lane == 0) copy(asked);
    next.Next(begin, end, tile_warps);
  }

  WaitForEarlier();
  // The next kernel is to begin as the last weights are on their way, which
  // they are soonest where there are few.
  if (warp == 0 && next.tile >= last_tile) LetLaterBegin();
  RowTile rows;
  if (!TileOfRows<kTileRows<kProducts>>(nullptr, 0, args.rows.Get(), 0, rows)) {
    // What was asked for comes before the block ends.
    for (int i = 0; i < asked; ++i) Wait(&came[warp][i], 0);
    return;
  }
  const int row_pitch = of_block * kPairColumns * 2 + kRowPad;
  RoundX<true, kStreamThreads>(args, rows, first_pair * kPairColumns,
                               of_block * kPairColumns, row_pitch, x);
  // Results of rows that are not there are not stored.
  const uint4* x_row[kProducts];
#pragma unroll
  for (int u = 0; u < kProducts; ++u) {
    const int r = min(u * kRows + lane / 4, rows.num_rows - 1);
    x_row[u] = reinterpret_cast<const uint4*>(x + r * row_pitch) + lane % 4;
  }
  __syncthreads();

  const int row = RowOfLane(lane);
  // Of 16 bytes: piece i of a row lies at i ^ row.
  const int piece = lane % 4 / 2, byte = row * kPairBytes + lane % 2 * 8;
  int slot = 0;
  uint32_t phase = 0;
  for (int tile = first_tile + tile_warp; tile < last_tile;
       tile += tile_warps) {
    float total[2][kProducts][4] = {};
    for (int pair = begin; pair < end; ++pair) {
      Wait(&came[warp][slot], phase);
      const uint8_t* const codes = ring.code[warp][slot] + byte;
      const uint8_t* const scales = ring.scale[warp][slot] + row * kScaleBytes;
#pragma unroll 1
      for (int c = 0; c < 2; ++c) {
        const int low = ((4 * c + piece) ^ row) * 16;
        Chunk<kBits> chunk[4];
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          const uint8_t* const at = codes + i * kRows * kPairBytes;
          chunk[i].template LoadCopy<kGroupShift>(
              at + low, at + (low ^ 32), scales + i * kRows * kScaleBytes,
              2 * pair + c);
          chunk[i].SpreadScales(kGroupShift);
        }
        const int of_chunk = (2 * (pair - first_pair) + c) * kVectorsOfChunk;
        AddChunk<kBits, kProducts, 1>(
            chunk, kGroupShift,
            [&](int p, int, int u) { return x_row[u][of_chunk + p * 4]; },
            total);
      }
      __syncwarp();  // All have read.
      if (next.tile < last_tile) {
        if (lane == 0) copy(slot);
        next.Next(begin, end, tile_warps);
        if (next.tile >= last_tile && warp == 0) LetLaterBegin();
      }
      if (++slot == kSlots) {
        slot = 0;
        phase ^= 1;
      }
    }
    if (depth > 1) {
      JoinDepth<kProducts>(tile_warp, depth_warp, depth,
                           depth_sums + tile_warp * kVectors + lane, total);
      if (depth_warp > 0) continue;
    }
    auto* const sums = reinterpret_cast<float4*>(shape.sums) +
                       (int64_t{split} * tiles + tile) * kVectors + lane;
    ForSums<kProducts>(total, [&](int at, float4& v) {
      if (splits > 1) {
        __stcg(sums + at, v);
      } else {
        StoreSums<kProducts>(args, rows.num_rows, tile, at + lane, v);
      }
    });
  }
  if (splits > 1) {
    SyncCluster();  // The others' sums are known, in memory too.
    JoinSplits<kProducts>(args, shape, rows.num_rows, tiles, first_tile,
                          last_tile);
  }
#endif
}

template <int kBits, int kProducts, int kGroupShift>
cudaError_t LaunchStream(const QuantProductArgs& args, const StreamChoice& only,
                         float* sums, cudaStream_t stream) {
  const auto kernel = StreamKernel<kBits, kProducts, kGroupShift>;
  const auto* const address = reinterpret_cast<const void*>(kernel);
  const cudaError_t allowed = cudaFuncSetAttribute(
      address, cudaFuncAttributeMaxDynamicSharedMemorySize, kStreamBytes);
  if (allowed != cudaSuccess) return allowed;
  static const ActiveClusters active(address, kStreamThreads, kStreamBytes);
  const PackedRows& w = args.w;
  StreamWork work;
  work.tiles = (w.n + kWarpRows - 1) / kWarpRows;
  work.pairs = w.code_bytes / kPairBytes;
  work.rows = static_cast<int>(args.rows.bound);
  work.pair_bytes_of_row = kPairBytesOfRow<kBits>;
  work.row_pad = kRowPad;
  work.sum_bytes = kSumsOfTile<kProducts> * int{sizeof(float4)};
  work.bytes = kStreamBytes - kRingBytes;
  work.only = only;
  const StreamPlan plan = PlanStream(work, active.of);
  if (plan.bands == 0) return cudaErrorInvalidValue;
  StreamShape shape;
  shape.splits = plan.splits;
  shape.depth = plan.depth;
  shape.bands = static_cast<int>(plan.bands);
  shape.bytes_of_x = plan.bytes_of_x;
  shape.sums = sums;
  CUtensorMap code_map, scale_map;
  BoxedBytes bytes;
  bytes.data = w.data;
  bytes.rows = w.n;
  bytes.row_bytes = w.row_bytes;
  bytes.box_rows = kWarpRows;
  bytes.box_bytes = kPairBytes;
  if (const cudaError_t e = MakeByteMap(bytes, &code_map); e) return e;
  bytes.box_bytes = kScaleBytes;
  if (const cudaError_t e = MakeByteMap(bytes, &scale_map); e) return e;
  return LaunchClustersAhead(
      kernel, plan.splits,
      dim3(static_cast<unsigned>(plan.splits),
           static_cast<unsigned>(plan.bands)),
      dim3(kStreamThreads),
      static_cast<size_t>(kRingBytes + plan.bytes_of_x + plan.bytes_of_sums),
      stream, args, shape, code_map, scale_map);
}

template <int kBits, int kProducts>
cudaError_t LaunchStreamGroups(const QuantProductArgs& args,
                               const StreamChoice& only, float* sums,
                               cudaStream_t stream) {
  switch (args.w.group_shift) {
    case 5:
      return LaunchStream<kBits, kProducts, 5>(args, only, sums, stream);
    case 6:
      return LaunchStream<kBits, kProducts, 6>(args, only, sums, stream);
    default:
      return LaunchStream<kBits, kProducts, 7>(args, only, sums, stream);
  }
}

template <int kBits>
cudaError_t LaunchStreamed(const QuantProductArgs& args,
                           const StreamChoice& only, float* sums,
                           cudaStream_t stream) {
  return args.rows.bound <= kRows
             ? LaunchStreamGroups<kBits, 1>(args, only, sums, stream)
             : LaunchStreamGroups<kBits, 2>(args, only, sums, stream);
}

}  // namespace strata::gpu

#endif  // CUDA_KERNELS_FEW_ROWS_STREAM_CUH_
