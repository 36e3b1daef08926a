// The product of up to 16 rows by quantised weights, 64 of small ones, in BF16
// products of 16 x 8 x 16 with F32 sums, with x in shared memory throughout.
// Included where it is instantiated.
//
// A block has a share of the columns and a band of tiles of 32 rows of w, and a
// warp as many pairs of chunks of them as the others, or one more
// (StreamUnits):
//
//   w   --the copy engine--> a warp's ring, from before earlier kernels end on
//   x   --rounded once, or as it is--> shared memory, rows one behind the other
//   each tile    codes as they lie times x (bare_codes.cuh), times their scale
//   the end      sums of all warps of a cluster's blocks that have some of a
//                tile, from memory (L2), in their order
//
// No more than a warp's first pair is on its way before x is, and of more than
// eight rows before x is there, which would share what memory gives with the
// second. Bound by reading w; for 16 rows also by the wait for x and by shared
// memory, which gives a warp x anew for each tile.

#ifndef CUDA_KERNELS_FEW_ROWS_STREAM_CUH_
#define CUDA_KERNELS_FEW_ROWS_STREAM_CUH_

#include <algorithm>
#include <cstdint>
#include <iterator>

#include "cuda/kernels/active_clusters.h"
#include "cuda/kernels/ahead.cuh"
#include "cuda/kernels/bare_codes.cuh"
#include "cuda/kernels/few_rows_operands.cuh"
#include "cuda/kernels/few_rows_stream.h"
#include "cuda/kernels/few_rows_stream_plan.h"
#include "cuda/kernels/few_rows_sums.cuh"
#include "cuda/kernels/packed_chunk.cuh"
#include "cuda/kernels/quant_product.h"
#include "cuda/kernels/row_tiles.cuh"
#include "cuda/kernels/sm90.cuh"
#include "cuda/kernels/tensor_map.h"
#include "cuda_bf16.h"

namespace strata::gpu {

// Blocks of a multiprocessor have all of its shared memory but what it keeps,
// and barriers; with what aligns the ring.
template <int kWarpsOfBlock>
constexpr int kStreamBytes = 228 * 1024 / (kStreamWarps / kWarpsOfBlock) -
                             1024 - 512;
template <int kWarpsOfBlock>
constexpr int kRingBytes =
    int{sizeof(StreamRing<kWarpsOfBlock>)} + kSwizzleBytes;

#if STRATA_SM90A

// 16 bytes of a row of x, four columns in F32 or eight in BF16, to shared
// memory in BF16, scaled and in the order of a thread's slots.
template <bool kBf16>
__device__ __forceinline__ void StoreScaled(const uint4& v, float scale,
                                            char* to) {
  if constexpr (kBf16) {
    *reinterpret_cast<uint4*>(to) = ScaledEight(v, scale);
  } else {
    const auto pair = [&](uint32_t a, uint32_t b) {
      return PairOf(__floats2bfloat162_rn(__uint_as_float(a) * scale,
                                          __uint_as_float(b) * scale));
    };
    *reinterpret_cast<uint2*>(to) = {pair(v.x, v.z), pair(v.y, v.w)};
  }
}

// Rows of a tile, of columns [first, first + n), to shared memory, each `pitch`
// bytes from the one before: 128 columns by as many threads as have them in 16
// bytes each, n being a multiple of that, and kLoads times. `between` is called
// when the first loads are on their way.
template <int kBits, int kWarpsOfBlock, bool kBf16, int kLoads,
          typename Between>
__device__ __forceinline__ void BringRows(const QuantProductArgs& args,
                                          const RowTile& rows, int first, int n,
                                          int pitch, char* to,
                                          Between between) {
  constexpr int kColumns = 128, kOfThread = kBf16 ? 8 : 4;
  constexpr int kThreadsOfPart = kColumns / kOfThread;
  constexpr int kParts = kWarpsOfBlock * 32 / kThreadsOfPart;
  constexpr int kBytes = 16 / kOfThread;
  const int of_row = n / kColumns;
  const auto thread = static_cast<int>(threadIdx.x);
  const int column = thread % kThreadsOfPart * kOfThread;
  const float scale = ScaleOfX<kBits>(column / kPieceColumns);
  const int step_rows = kParts / of_row, step = kParts % of_row;
  int row = thread / kThreadsOfPart / of_row;
  int part = thread / kThreadsOfPart % of_row;
  const char* const x = (kBf16 ? reinterpret_cast<const char*>(args.x_bf16)
                               : reinterpret_cast<const char*>(args.x)) +
                        (rows.row * args.w.k + first + column) * kBytes;
  bool first_loads = true;
  do {
    uint4 v[kLoads];
    int at[kLoads];
#pragma unroll
    for (int j = 0; j < kLoads; ++j) {
      at[j] = -1;
      if (row >= rows.num_rows) continue;
      v[j] = *reinterpret_cast<const uint4*>(
          x + (int64_t{row} * args.w.k + part * kColumns) * kBytes);
      at[j] = row * pitch + (part * kColumns + column) * 2;
      row += step_rows;
      part += step;
      if (part >= of_row) {
        part -= of_row;
        ++row;
      }
    }
    if (first_loads) between();
    first_loads = false;
#pragma unroll
    for (int j = 0; j < kLoads; ++j) {
      if (at[j] >= 0) StoreScaled<kBf16>(v[j], scale, to + at[j]);
    }
  } while (row < rows.num_rows);
}

// The same. Few loads take less code, which is not there yet either.
template <int kBits, int kWarpsOfBlock, bool kBf16, typename Between>
__device__ __forceinline__ void BringX(const QuantProductArgs& args,
                                       const RowTile& rows, int first, int n,
                                       int pitch, char* to, Between between) {
  constexpr int kFew = kBf16 ? 2 : 4, kMany = kBf16 ? 8 : 16;
  constexpr int kOfLoad = kWarpsOfBlock * 32 * (kBf16 ? 8 : 4);
  if (rows.num_rows * n <= kFew * kOfLoad) {
    BringRows<kBits, kWarpsOfBlock, kBf16, kFew>(args, rows, first, n, pitch,
                                                 to, between);
  } else {
    BringRows<kBits, kWarpsOfBlock, kBf16, kMany>(args, rows, first, n, pitch,
                                                  to, between);
  }
}

#endif  // STRATA_SM90A

// Grid: splits (a cluster), bands, tiles of rows of x.
template <int kBits, int kProducts, int kGroupShift, int kWarpsOfBlock>
__global__ void __launch_bounds__(kWarpsOfBlock * 32,
                                  kStreamWarps / kWarpsOfBlock)
    StreamKernel(const __grid_constant__ QuantProductArgs args,
                 const __grid_constant__ StreamShape shape,
                 const __grid_constant__ CUtensorMap code_map,
                 const __grid_constant__ CUtensorMap scale_map) {
#if STRATA_SM90A
  constexpr int kPairColumns = 2 * kChunkColumns<kBits>;
  constexpr int kVectorsOfChunk = kVectorsOfX<kBits, kProducts, OfX::kRounded>;
  constexpr int kVectors = kSumsOfTile<kProducts>;
  extern __shared__ char memory[];
  __shared__ uint64_t came[kWarpsOfBlock][kSlots];
  auto& ring = *reinterpret_cast<StreamRing<kWarpsOfBlock>*>(
      memory +
      (kSwizzleBytes - SharedAddress(memory) % kSwizzleBytes) % kSwizzleBytes);
  char* const x = reinterpret_cast<char*>(&ring + 1);
  const PackedRows& w = args.w;
  // Warps one behind the other are of different schedulers.
  const int warp =
      Uniform(static_cast<int>(threadIdx.x) / 32 % 4 * (kWarpsOfBlock / 4) +
              static_cast<int>(threadIdx.x) / 128);
  const int lane = static_cast<int>(threadIdx.x) % 32;
  // This block's tiles of rows of w.
  const auto tiles = static_cast<int>((w.n + kWarpRows - 1) / kWarpRows);
  const auto band = static_cast<int>(blockIdx.y);
  const auto first_of = [&](int of) {
    return static_cast<int>(static_cast<uint32_t>(tiles * of) /
                            static_cast<uint32_t>(shape.bands));
  };
  const int first_tile = first_of(band), last_tile = first_of(band + 1);
  // Its pairs of chunks of each, from first_pair on, and what of all of them
  // this warp has.
  const int pairs = w.code_bytes / kPairBytes, splits = shape.splits;
  const auto split = static_cast<int>(blockIdx.x);
  const int first_pair = pairs * split / splits;
  const int share = pairs * (split + 1) / splits - first_pair;
  const StreamUnits<kWarpsOfBlock> units = {last_tile - first_tile, share};
  const int begin = units.First(warp);
  int left = units.First(warp + 1) - begin, to_ask = left;
  int tile = begin / share, pair = begin - tile * share;
  int next_tile = tile, next_pair = pair;
  // By a whole warp: the next pair.
  const auto ask = [&](int slot) {
    if (lane == 0) {
      const int at = first_pair + next_pair;
      const int scale = 2 * (at * kPairColumns >> kGroupShift);
      uint64_t* const barrier = &came[warp][slot];
      const int row = (first_tile + next_tile) * kWarpRows;
      ArriveExpecting(barrier, kWarpRows * (kPairBytes + kScaleBytes));
      LoadBox(&code_map, ring.code[warp][slot], barrier, at * kPairBytes, row,
              0);
      LoadBox(&scale_map, ring.scale[warp][slot], barrier,
              w.code_bytes + scale / kScaleBytes * kScaleBytes, row, 0);
    }
    --to_ask;
    if (++next_pair == share) {
      next_pair = 0;
      ++next_tile;
    }
  };
  if (lane == 0) {
#pragma unroll
    for (int i = 0; i < kSlots; ++i) InitBarrier(&came[warp][i], 1);
    FenceBarrierInit();
  }
  __syncwarp();
  const int asked = min(left, kSlots);
  // What is asked for now is not to be ahead of x: a part.
  if (asked > 0) ask(0);

  // Of the sums that this thread joins first.
  const int to_join =
      split * kWarpsOfBlock * 32 + static_cast<int>(threadIdx.x);
  StreamParts parts = StreamParts::Of<kWarpsOfBlock>(
      units.tiles, pairs / splits, to_join / kVectors);
  uint32_t have_more = 0;
  for (int s = 0; s < splits; ++s) {
    const int its = pairs * (s + 1) / splits - pairs * s / splits;
    if (its > pairs / splits) have_more |= 1u << s;
  }

  WaitForEarlier();
  RowTile rows;
  if (!TileOfRows<kTileRows<kProducts>>(nullptr, 0, args.rows.Get(),
                                        static_cast<int>(blockIdx.z), rows)) {
    // What was asked for comes before the block ends.
    if (asked > 0) Wait(&came[warp][0], 0);
    return;
  }
  const int row_pitch = share * kPairColumns * 2 + kRowPad;
  const auto ask_others = [&] {
    for (int i = 1; i < asked; ++i) ask(i);
    // The next kernel is to begin as the last weights are on their way, which
    // they are soonest where there are few.
    if (warp == 0 && to_ask == 0) LetLaterBegin();
  };
  // Of more than eight rows x would share what memory gives with them.
  constexpr bool kBehindX = kProducts > 1 && kWarpsOfBlock == kStreamWarps;
  const auto between = [&] {
    if (!kBehindX) ask_others();
  };
  const int first_column = first_pair * kPairColumns;
  const int columns = share * kPairColumns;
  if (args.x_bf16 != nullptr) {
    BringX<kBits, kWarpsOfBlock, true>(args, rows, first_column, columns,
                                       row_pitch, x, between);
  } else {
    BringX<kBits, kWarpsOfBlock, false>(args, rows, first_column, columns,
                                        row_pitch, x, between);
  }
  if (kBehindX) ask_others();
  // Results of rows that are not there are not stored.
  const uint4* x_row[kProducts];
#pragma unroll
  for (int u = 0; u < kProducts; ++u) {
    const int r = min(u * kRows + lane / 4, rows.num_rows - 1);
    x_row[u] = reinterpret_cast<const uint4*>(x + r * row_pitch) + lane % 4;
  }
  __syncthreads();
  auto* const offsets =
      reinterpret_cast<float2*>(x + rows.num_rows * row_pitch);
  for (int c = warp; c < 2 * share; c += kWarpsOfBlock) {
    StoreOffsets<kBits, kProducts, kGroupShift>(
        [&](int p, int u) { return x_row[u][c * kVectorsOfChunk + p * 4]; },
        offsets + c * kOffsetsOfChunk<kBits, kProducts, kGroupShift>);
  }
  __syncthreads();

  float4* const sums = reinterpret_cast<float4*>(shape.sums) +
                       (int64_t{blockIdx.z} * shape.bands + band) * splits *
                           shape.slots * kVectors;
  const int row = RowOfLane(lane);
  // Of 16 bytes: piece i of a row lies at i ^ row.
  const int piece = lane % 4 / 2, byte = row * kPairBytes + lane % 2 * 8;
  int slot = 0;
  uint32_t phase = 0;
  float total[2][kProducts][4] = {};
  while (left > 0) {
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
            2 * (first_pair + pair) + c);
        chunk[i].SpreadScales(kGroupShift);
      }
      const int of_chunk = (2 * pair + c) * kVectorsOfChunk;
      AddBareChunk<kBits, kProducts, kGroupShift>(
          chunk, [&](int p, int u) { return x_row[u][of_chunk + p * 4]; },
          offsets +
              (2 * pair + c) * kOffsetsOfChunk<kBits, kProducts, kGroupShift>,
          total);
    }
    __syncwarp();  // All have read.
    if (to_ask > 0) {
      ask(slot);
      if (to_ask == 0 && warp == 0) LetLaterBegin();
    }
    if (++slot == kSlots) {
      slot = 0;
      phase ^= 1;
    }
    --left;
    if (++pair < share && left > 0) continue;
    float4* const to =
        sums + (split * shape.slots + warp + tile) * kVectors + lane;
    ForSums<kProducts>(total, [&](int at, float4& v) {
      __stcg(to + at, v);
      v = {0, 0, 0, 0};
    });
    pair = 0;
    ++tile;
  }
  // The others' sums are known, in memory too.
  if (splits > 1) {
    SyncCluster();
  } else {
    __syncthreads();
  }
  for (int i = to_join; i < units.tiles * kVectors;
       i += splits * kWarpsOfBlock * 32) {
    if (i > to_join) {
      parts = StreamParts::Of<kWarpsOfBlock>(units.tiles, pairs / splits,
                                             i / kVectors);
    }
    StoreSums<kProducts>(
        args, rows, first_tile + i / kVectors, i % kVectors,
        JoinVector<kProducts>(sums, i % kVectors, shape, parts, have_more));
  }
#endif
}

template <int kBits, int kProducts, int kGroupShift, int kWarpsOfBlock>
cudaError_t LaunchStream(const QuantProductArgs& args, const StreamPlan& plan,
                         float* sums, cudaStream_t stream) {
  const auto kernel =
      StreamKernel<kBits, kProducts, kGroupShift, kWarpsOfBlock>;
  const cudaError_t allowed = cudaFuncSetAttribute(
      reinterpret_cast<const void*>(kernel),
      cudaFuncAttributeMaxDynamicSharedMemorySize, kStreamBytes<kWarpsOfBlock>);
  if (allowed != cudaSuccess) return allowed;
  const PackedRows& w = args.w;
  StreamShape shape;
  shape.splits = plan.splits;
  shape.bands = static_cast<int>(plan.bands);
  shape.slots = static_cast<int>(plan.slots);
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
           static_cast<unsigned>(plan.bands),
           static_cast<unsigned>(plan.row_tiles)),
      dim3(kWarpsOfBlock * 32),
      static_cast<size_t>(kRingBytes<kWarpsOfBlock> + plan.bytes_of_x), stream,
      args, shape, code_map, scale_map);
}

// Of the kernel with the most registers; others' clusters find as much room,
// as shared memory bounds them.
template <int kBits, int kProducts, int kWarpsOfBlock>
StreamBlock DescribeBlock() {
  const auto* const kernel = reinterpret_cast<const void*>(
      StreamKernel<kBits, kProducts, 7, kWarpsOfBlock>);
  cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                       kStreamBytes<kWarpsOfBlock>);
  static const ActiveClusters active(kernel, kWarpsOfBlock * 32,
                                     kStreamBytes<kWarpsOfBlock>);
  StreamBlock block;
  block.warps = kWarpsOfBlock;
  block.bytes_of_x = kStreamBytes<kWarpsOfBlock> - kRingBytes<kWarpsOfBlock>;
  std::copy(std::begin(active.of), std::end(active.of), block.active);
  return block;
}

template <int kBits, int kProducts, int kGroupShift>
cudaError_t LaunchWarps(const QuantProductArgs& args, const StreamChoice& only,
                        float* sums, cudaStream_t stream) {
  StreamWork work = DescribeStream(args);
  work.only = only;
  const StreamBlock blocks[] = {DescribeBlock<kBits, kProducts, 8>(),
                                DescribeBlock<kBits, kProducts, 16>()};
  const StreamPlan plan = PlanStream(work, blocks);
  if (plan.bands == 0) return cudaErrorInvalidValue;
  return plan.warps == 8 ? LaunchStream<kBits, kProducts, kGroupShift, 8>(
                               args, plan, sums, stream)
                         : LaunchStream<kBits, kProducts, kGroupShift, 16>(
                               args, plan, sums, stream);
}

template <int kBits, int kProducts>
cudaError_t LaunchStreamGroups(const QuantProductArgs& args,
                               const StreamChoice& only, float* sums,
                               cudaStream_t stream) {
  switch (args.w.group_shift) {
    case 5:
      return LaunchWarps<kBits, kProducts, 5>(args, only, sums, stream);
    case 6:
      return LaunchWarps<kBits, kProducts, 6>(args, only, sums, stream);
    default:
      return LaunchWarps<kBits, kProducts, 7>(args, only, sums, stream);
  }
}

template <int kBits>
cudaError_t LaunchStreamed(const QuantProductArgs& args,
                           const StreamChoice& only, float* sums,
                           cudaStream_t stream) {
  switch (StreamProducts(args.rows.bound)) {
    case 1:
      return LaunchStreamGroups<kBits, 1>(args, only, sums, stream);
    case 2:
      return LaunchStreamGroups<kBits, 2>(args, only, sums, stream);
    default:
      return LaunchStreamGroups<kBits, kMaxStreamProducts>(args, only, sums,
                                                           stream);
  }
}

}  // namespace strata::gpu

#endif  // CUDA_KERNELS_FEW_ROWS_STREAM_CUH_
