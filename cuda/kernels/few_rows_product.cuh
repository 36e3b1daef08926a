// The product of up to 16 rows (of an expert) by quantised weights, in BF16
// products of 16 x 8 x 16 with F32 sums. Included where it is instantiated.
//
// A block makes y of some columns for 8 or 16 rows of x. Rows of w are the rows
// of the tensor cores' products (16 x 8 x 16), those of x their columns:
//
//   x, rounded, or cut into three BF16 --> shared memory
//                                       |
//   w: a warp 32 rows, two chunks at a -+--> sums of a group, of integers
//      time; the next two are on their way     |  times the scale
//                                              v
//                                            sums
//
// On their way are they to shared memory where rows are symmetric and whole
// pieces of 16 bytes, else, a chunk, to registers. Of a dense product the first
// of them are asked for before the kernels ahead have ended.
//
// Warps of a block have other rows of w or other columns (PlanFewRows), blocks
// of a cluster a share of the columns each; sums are joined through shared
// memory, in the order of the blocks. Bound by reading w.

#ifndef CUDA_KERNELS_FEW_ROWS_PRODUCT_CUH_
#define CUDA_KERNELS_FEW_ROWS_PRODUCT_CUH_

#include <algorithm>
#include <cstddef>
#include <cstdint>

#include "cooperative_groups.h"
#include "cuda/kernels/active_clusters.h"
#include "cuda/kernels/ahead.cuh"
#include "cuda/kernels/few_rows_multiply.cuh"
#include "cuda/kernels/few_rows_operands.cuh"
#include "cuda/kernels/few_rows_plan.h"
#include "cuda/kernels/few_rows_product.h"
#include "cuda/kernels/packed_chunk.cuh"
#include "cuda/kernels/quant_product.h"
#include "cuda/kernels/quant_round.h"
#include "cuda/kernels/row_tiles.cuh"
#include "cuda/kernels/sm90.cuh"
#include "cuda/kernels/tensor_map.h"
#include "cuda/runtime/kernel.h"
#include "cuda_bf16.h"

namespace strata::gpu {

namespace cg = cooperative_groups;

// How the warps of a block share its work, and how many pairs of x lie in
// shared memory at a time.
struct Shape {
  const __nv_bfloat16* rounded = nullptr;  // [rows, columns]
  int64_t columns = 0;
  int row_warps = 1, depth_warps = 1, segment = 1;
  int bytes_of_x = 0;  // Of shared memory; what is on its way is behind them.
  bool fast = false;
};

// Grid: splits (a cluster), tiles of columns of y, tiles of rows. With a
// kGroupShift w is whole (IsWhole), in such groups; 0: as it says.
template <int kBits, int kProducts, OfX kX, int kGroupShift>
__global__ void __launch_bounds__(kThreads, 2)
    FewRowsKernel(const QuantProductArgs args, const Shape shape) {
  constexpr bool kCopies = kGroupShift > 0;
  constexpr int kPairColumns = 2 * kChunkColumns<kBits>;
  constexpr bool kExact = kX == OfX::kExact;
  constexpr int kPieces = kExact ? kExactPieces : 1;
  constexpr int kVectorsOfChunk = kVectorsOfX<kBits, kProducts, kX>;
  extern __shared__ __align__(128) char memory[];
  __shared__ uint64_t came;  // Of x: its bytes.
  auto* const staged = reinterpret_cast<uint4*>(memory);
  auto* const sums = reinterpret_cast<float*>(memory);
  const PackedRows& w = args.w;
  const int group_shift = kCopies ? kGroupShift : w.group_shift;
  const int splits = static_cast<int>(gridDim.x);
  const int split = static_cast<int>(blockIdx.x);
  const int warp = static_cast<int>(threadIdx.x) / 32;
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const int row_warp = warp % shape.row_warps;
  const int depth_warp = warp / shape.row_warps;
  const int depth_warps = shape.depth_warps;
  const int tile_columns = shape.row_warps * kWarpRows;
  const int column = static_cast<int>(blockIdx.y) * tile_columns;
  auto& on_its_way =
      *(reinterpret_cast<OnItsWay*>(memory + shape.bytes_of_x) + warp);

  // Rows of w; those beyond the last are the last.
  const int64_t first_row =
      min(int64_t{column} + row_warp * kWarpRows, w.n - 1);
  const int last_row = static_cast<int>(min(w.n - 1 - first_row, int64_t{31}));
  const uint8_t* row = w.data + first_row * w.row_bytes;
  // Pairs of chunks of this block, [begin, end), of which this warp has some.
  const int pairs = (w.code_bytes + kPairBytes - 1) / kPairBytes;
  const int begin = pairs * split / splits;
  const int end = pairs * (split + 1) / splits;
  int pair = begin + depth_warp, slot = 0;
  Chunk<kBits> next[4];
  const auto load = [&](int chunk) {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      next[i].Load(w, row + min(8 * i + lane / 4, last_row) * w.row_bytes,
                   chunk, shape.fast);
    }
  };
  const auto copy = [&](int from, int to_slot) {
    if (from < end) {
      CopyPair<kBits, kGroupShift>(w, row, last_row, from, to_slot, on_its_way);
    }
    CommitCopies();
  };
  const auto begin_loads = [&] {
    if constexpr (kCopies) {
#pragma unroll
      for (int i = 0; i < kSlots; ++i) copy(pair + i * depth_warps, i);
    } else if (pair < end) {
      load(2 * pair);
    }
  };

  if (args.num_experts == 0) begin_loads();
#if STRATA_SM90A
  if (kX == OfX::kCopied && threadIdx.x == 0) {
    InitBarrier(&came, 1);
    FenceBarrierInit();
  }
#endif
  WaitForEarlier();
  LetLaterBegin();
  const int64_t rows = args.rows.Get();
  if (args.num_experts > 0 && blockIdx.x + blockIdx.y + blockIdx.z == 0) {
    CheckOffsets(args.offset, args.num_experts, rows, args.fault);
  }
  RowTile tile;
  if (!TileOfRows<kTileRows<kProducts>>(args.offset, args.num_experts, rows,
                                        static_cast<int>(blockIdx.z), tile)) {
    if constexpr (kCopies) WaitForCopies<0>();
    return;
  }
  if (args.num_experts > 0) {
    row += tile.expert * w.n * w.row_bytes;
    begin_loads();
  }

  float total[2][kProducts][4] = {};
  const int row_pitch = shape.segment * kPairBytesOfRow<kBits> + kRowPad;
  // Results of rows that are not there are not stored.
  const uint4* x_row[kProducts];
#pragma unroll
  for (int u = 0; u < kProducts; ++u) {
    const int r = min(u * kRows + lane / 4, tile.num_rows - 1);
    x_row[u] =
        staged + (kExact ? u * 32 + lane : r * row_pitch / 16 + lane % 4);
  }
  uint32_t phase = 0;
  if constexpr (kX == OfX::kCopied) __syncthreads();  // The barrier is known.
  for (int first = begin; first < end; first += shape.segment) {
    const int last = min(end, first + shape.segment);
    if (first > begin) __syncthreads();  // The segment before has been read.
    if constexpr (kX == OfX::kCopied) {
#if STRATA_SM90A
      const int bytes = (last - first) * kPairBytesOfRow<kBits>;
      if (threadIdx.x == 0) ArriveExpecting(&came, bytes * tile.num_rows);
      if (warp == 0) {
        __syncwarp();
        if (lane < tile.num_rows) {
          LoadBytes(shape.rounded + (tile.row + lane) * shape.columns +
                        first * kPairColumns,
                    memory + lane * row_pitch, bytes, &came);
        }
      }
      Wait(&came, phase);
      phase ^= 1;
#endif
    } else {
      const int columns = (last - first) * kPairColumns;
      if constexpr (kExact) {
        CutX<kProducts, kCopies>(args, tile, first * kPairColumns, columns,
                                 staged);
      } else {
        RoundX<kCopies>(args, tile, first * kPairColumns, columns, row_pitch,
                        memory);
      }
      __syncthreads();
    }
    for (; pair < last; pair += depth_warps) {
      if constexpr (kCopies) {
        WaitForCopies<kSlots - 1>();
        __syncwarp();
      }
#pragma unroll 1
      for (int c = 0; c < 2; ++c) {
        Chunk<kBits> now[4];
        if constexpr (kCopies) {
          const int t = lane % 4 * 8, swap = lane / 4 % 4;
#pragma unroll
          for (int i = 0; i < 4; ++i) {
            const int r = 8 * i + lane / 4;
            const uint8_t* const codes = on_its_way.code[slot][r] + t;
            now[i].template LoadCopy<kGroupShift>(
                codes + (2 * c ^ swap) * 32, codes + ((2 * c + 1) ^ swap) * 32,
                on_its_way.scale[slot][r], 2 * pair + c);
            now[i].SpreadScales(kGroupShift);
          }
        } else {
#pragma unroll
          for (int i = 0; i < 4; ++i) {
            now[i] = next[i];
            now[i].Spread(group_shift);
          }
          load(c == 0 ? 2 * pair + 1 : 2 * (pair + depth_warps));
        }
        const int of_chunk = (2 * (pair - first) + c) * kVectorsOfChunk;
        AddChunk<kBits, kProducts, kPieces>(
            now, group_shift,
            [&](int p, int q, int u) {
              return kExact
                         ? x_row[u]
                                [of_chunk + (p * kPieces + q) * kProducts * 32]
                         : x_row[u][of_chunk + p * 4];
            },
            total);
      }
      if constexpr (kCopies) {
        __syncwarp();  // All have read.
        copy(pair + kSlots * depth_warps, slot);
        slot = (slot + 1) % kSlots;
      }
    }
  }

  // sums [depth_warps][rows of x][pitch]
  __syncthreads();
  const int pitch = tile_columns + kSumPad;
#pragma unroll
  for (int m = 0; m < 2; ++m) {
#pragma unroll
    for (int u = 0; u < kProducts; ++u) {
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const int r = u * kRows + lane % 4 * 2 + i % 2;
        sums[(depth_warp * kTileRows<kProducts> + r) * pitch +
             row_warp * kWarpRows + m * 16 + i / 2 * 8 + lane / 4] =
            total[m][u][i];
      }
    }
  }
#if __CUDA_ARCH__ >= 900
  cg::cluster_group cluster = cg::this_cluster();
  cluster.sync();
#else
  __syncthreads();
#endif
  // Each block has a share of the columns of y.
  const int share = tile_columns / splits;
  for (int i = threadIdx.x; i < share * tile.num_rows; i += kThreads) {
    const int at = split * share + i % share, r = i / share;
    float sum = 0;
    for (int s = 0; s < splits; ++s) {
#if __CUDA_ARCH__ >= 900
      const float* const other = cluster.map_shared_rank(sums, s);
#else
      const float* const other = sums;
#endif
      for (int d = 0; d < depth_warps; ++d) {
        sum += other[(d * kTileRows<kProducts> + r) * pitch + at];
      }
    }
    if (column + at < w.n) {
      args.y[(tile.row + r) * w.n + column + at] = sum;
    }
  }
#if __CUDA_ARCH__ >= 900
  cluster.sync();  // The others may still read here.
#endif
}

template <int kBits, int kProducts, OfX kX, int kGroupShift>
cudaError_t LaunchFewRows(const QuantProductArgs& args,
                          const __nv_bfloat16* rounded, cudaStream_t stream) {
  const auto* const kernel = reinterpret_cast<const void*>(
      FewRowsKernel<kBits, kProducts, kX, kGroupShift>);
  constexpr int kWayBytes =
      kGroupShift > 0 ? kWarps * int{sizeof(OnItsWay)} : 0;
  constexpr int kMaxBytes = kWayBytes + kMaxBytesOfX;
  const cudaError_t allowed = cudaFuncSetAttribute(
      kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, kMaxBytes);
  if (allowed != cudaSuccess) return allowed;
  static const ActiveClusters two(kernel, kThreads,
                                  kWayBytes + kMaxBytesOfXOfTwo);
  static const ActiveClusters one(kernel, kThreads, kMaxBytes);
  const int64_t rows = args.rows.bound;
  const int64_t experts = std::min<int64_t>(args.num_experts, rows);
  FewRowsWork work;
  work.n = args.w.n;
  work.tile_rows = kTileRows<kProducts>;
  work.rows = static_cast<double>(rows) /
              static_cast<double>(std::max<int64_t>(1, experts));
  // Each expert may have a tile that is not full.
  work.tiles = (rows + work.tile_rows - 1) / work.tile_rows + experts;
  work.pairs = (args.w.code_bytes + kPairBytes - 1) / kPairBytes;
  // Rows that are there at most, if they are stored as they come.
  constexpr bool kExact = kX == OfX::kExact;
  work.rows_in_memory =
      kExact ? work.tile_rows
             : static_cast<int>(std::min<int64_t>(rows, work.tile_rows));
  work.pair_bytes_of_row = kPairBytesOfRow<kBits> * (kExact ? kExactPieces : 1);
  work.cost_of_x = args.x_bf16 == nullptr && kX == OfX::kRounded ? 4 : 2;
  const FewRowsPlan plan = PlanFewRows(work, one.of, two.of);
  Shape shape;
  shape.rounded = rounded;
  shape.columns = RoundedColumns(args.w);
  shape.row_warps = plan.row_warps;
  shape.depth_warps = kWarps / plan.row_warps;
  shape.segment = plan.segment;
  shape.bytes_of_x = plan.bytes_of_x;
  shape.fast = IsAligned8(args.w);
  return LaunchClustersAhead(
      FewRowsKernel<kBits, kProducts, kX, kGroupShift>, plan.splits,
      dim3(static_cast<unsigned>(plan.splits),
           static_cast<unsigned>(plan.column_tiles),
           static_cast<unsigned>(work.tiles)),
      dim3(kThreads), kWayBytes + shape.bytes_of_x, stream, args, shape);
}

template <int kBits, int kProducts, OfX kX>
cudaError_t LaunchGroups(const QuantProductArgs& args,
                         const __nv_bfloat16* rounded, cudaStream_t stream) {
  if (!IsWhole(args.w)) {
    return LaunchFewRows<kBits, kProducts, kX, 0>(args, rounded, stream);
  }
  switch (args.w.group_shift) {
    case 5:
      return LaunchFewRows<kBits, kProducts, kX, 5>(args, rounded, stream);
    case 6:
      return LaunchFewRows<kBits, kProducts, kX, 6>(args, rounded, stream);
    default:
      return LaunchFewRows<kBits, kProducts, kX, 7>(args, rounded, stream);
  }
}

template <int kBits>
cudaError_t LaunchBits(const QuantProductArgs& args, __nv_bfloat16* rounded,
                       cudaStream_t stream) {
  const int64_t experts = std::max(1, args.num_experts);
  const bool one = args.rows.bound <= kRows * experts;
  if (args.x_bf16 != nullptr) {
    return one ? LaunchGroups<kBits, 1, OfX::kRounded>(args, nullptr, stream)
               : LaunchGroups<kBits, 2, OfX::kRounded>(args, nullptr, stream);
  }
  if (rounded == nullptr) {
    return one ? LaunchGroups<kBits, 1, OfX::kExact>(args, nullptr, stream)
               : LaunchGroups<kBits, 2, OfX::kExact>(args, nullptr, stream);
  }
  if (one && args.num_experts == 0) {
    return LaunchGroups<kBits, 1, OfX::kRounded>(args, nullptr, stream);
  }
  const cudaError_t error =
      RoundForProduct(args, RoundedOrder::kByThread, rounded, stream);
  if (error != cudaSuccess) return error;
  return one ? LaunchGroups<kBits, 1, OfX::kCopied>(args, rounded, stream)
             : LaunchGroups<kBits, 2, OfX::kCopied>(args, rounded, stream);
}

}  // namespace strata::gpu

#endif  // CUDA_KERNELS_FEW_ROWS_PRODUCT_CUH_
