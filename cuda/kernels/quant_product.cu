#include <algorithm>
#include <cstddef>
#include <cstdint>

#include "cooperative_groups.h"
#include "cuda/kernels/packed_chunk.cuh"
#include "cuda/kernels/quant_product.h"
#include "cuda/kernels/row_tiles.cuh"
#include "cuda/kernels/tensor_map.h"
#include "cuda/runtime/kernel.h"
#include "cuda_bf16.h"

// A block makes y of 64 columns for 8 rows of x, or of 128 for 16. Rows of w
// are the rows of the tensor cores' products (16 x 8 x 16), those of x their
// columns:
//
//   x --cut into one or three BF16--> shared memory, as threads want it
//                                       |
//   w: a warp 32 rows, two chunks at a -+--> sums of a group, of integers
//      time; the next two are on their way     |  times the scale
//                                              v
//                                            sums
//
// On their way are they to shared memory where rows are symmetric and whole
// pieces of 16 bytes, else, a chunk, to registers.
//
// Four warps (of 16 rows, two) take pairs of chunks in turn, and the blocks of
// a cluster a share of the columns each; sums are joined through shared memory,
// in the order of the blocks. Bound by reading w: x is read by each block that
// needs it, which is why blocks have many rows of w.

namespace strata::gpu {
namespace {

namespace cg = cooperative_groups;

constexpr int kThreads = 256;
constexpr int kWarps = kThreads / 32;
constexpr int kWarpRows = 32;  // Of w: two products below each other.
constexpr int kRows = 8;       // Of x, in a product of the tensor cores.
// A warp's w on its way: twice so many bytes of each row, and the 16 bytes that
// their scales lie in. Rows begin 32 bytes apart of 128, so that four threads
// of four rows meet in no bank.
constexpr int kPairBytes = 2 * kChunkBytes;
constexpr int kSlots = 2;
constexpr int kCodePitch = kPairBytes + 32;
constexpr int kScaleBytes = 16;
// x in shared memory, so that two blocks fit with what is on its way.
constexpr int kMaxWordsOfX = 24 * 1024 / sizeof(uint2);

// How a block is divided, by products of 8 rows of x: 1 or 2.
template <int kProducts>
struct Shape {
  static constexpr int kRowWarps = kProducts == 1 ? 2 : 4;
  static constexpr int kDepthWarps = kWarps / kRowWarps;
  static constexpr int kTileColumns = kRowWarps * kWarpRows;  // Of y.
  static constexpr int kTileRows = kProducts * kRows;
  // Sums begin 4 banks apart, so that threads of a warp do not meet.
  static constexpr int kPitch = kTileColumns + 4;
};

struct OnItsWay {
  uint8_t code[kSlots][kWarpRows][kCodePitch];
  uint8_t scale[kSlots][kWarpRows][kScaleBytes];
};

template <int kProducts>
struct Shared {
  using S = Shape<kProducts>;
  union {
    uint2 x[kMaxWordsOfX];  // [step][piece][row][4]
    float sum[S::kDepthWarps][S::kTileRows][S::kPitch];
  };
  OnItsWay w[kWarps];  // Last: not there where w goes to registers.
};
template <int kProducts, bool kCopies>
constexpr size_t kSharedBytes = kCopies ? sizeof(Shared<kProducts>)
                                        : offsetof(Shared<kProducts>, w);

__device__ __forceinline__ void CopyAsync(const uint8_t* from, uint8_t* to) {
  asm volatile("cp.async.cg.shared.global.L2::256B [%0], [%1], 16;" ::"r"(
                   static_cast<uint32_t>(__cvta_generic_to_shared(to))),
               "l"(from)
               : "memory");
}
__device__ __forceinline__ void CommitCopies() {
  asm volatile("cp.async.commit_group;" ::: "memory");
}
template <int kPending>
__device__ __forceinline__ void WaitForCopies() {
  asm volatile("cp.async.wait_group %0;" ::"n"(kPending) : "memory");
}

// A pair of chunks of a warp's rows, from `row` on, of which the last is
// `last`, to slot `slot`.
template <int kBits, int kGroupShift>
__device__ __forceinline__ void CopyPair(const PackedRows& w,
                                         const uint8_t* row, int last, int pair,
                                         int slot, OnItsWay& to) {
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const auto row_bytes = static_cast<int>(w.row_bytes);
  const uint8_t* const at = row + pair * kPairBytes + lane % 8 * 16;
#pragma unroll
  for (int i = 0; i < kWarpRows / 4; ++i) {
    const int r = 4 * i + lane / 8;
    CopyAsync(at + min(r, last) * row_bytes, &to.code[slot][r][lane % 8 * 16]);
  }
  const int scale = 2 * (pair * 2 * kChunkColumns<kBits> >> kGroupShift);
  CopyAsync(row + w.code_bytes + scale / kScaleBytes * kScaleBytes +
                min(lane, last) * row_bytes,
            to.scale[slot][lane]);
}

__device__ __forceinline__ void MultiplyAdd(float (&d)[4],
                                            const uint32_t (&a)[4], uint2 b) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 "
      "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b.x), "r"(b.y));
}

// What of x is left when `piece` is taken away, which rounds it.
__device__ __forceinline__ uint32_t TakePiece(float& x, float& y) {
  const __nv_bfloat162 pair = __floats2bfloat162_rn(x, y);
  x -= __low2float(pair);
  y -= __high2float(pair);
  return PairOf(pair);
}

// Where eight columns of a row of x lie, and go: a piece has `rows` * 4 of
// them.
struct EightOfX {
  int piece, of_piece;
  int64_t row;
  int column;

  __device__ EightOfX(const RowTile& tile, int first, int i)
      : piece(i / (tile.num_rows * 4)),
        of_piece(i - piece * tile.num_rows * 4),
        row(tile.row + of_piece / 4),
        column(first + piece * kPieceColumns + of_piece % 4 * 8) {}

  template <int kPieces>
  __device__ __forceinline__ void Store(float (&v)[8], int rows,
                                        uint2* to) const {
#pragma unroll
    for (int step = 0; step < 2; ++step) {
      uint2* const at = to + (piece * 2 + step) * kPieces * rows * 4 + of_piece;
      float* const u = v + 4 * step;
#pragma unroll
      for (int p = 0; p < kPieces; ++p) {
        const uint32_t even = TakePiece(u[0], u[2]);
        at[p * rows * 4] = {even, TakePiece(u[1], u[3])};
      }
    }
  }
};

__device__ __forceinline__ void LoadEight(const float* from, float (&v)[8]) {
  const float4 a = __ldg(reinterpret_cast<const float4*>(from));
  const float4 b = __ldg(reinterpret_cast<const float4*>(from) + 1);
  v[0] = a.x, v[1] = a.y, v[2] = a.z, v[3] = a.w;
  v[4] = b.x, v[5] = b.y, v[6] = b.z, v[7] = b.w;
}

// Columns [first, first + n) of a tile's rows to shared memory, in pieces;
// where all are there (kWhole) with several loads at a time.
template <int kPieces, bool kWhole>
__device__ void StageX(const QuantProductArgs& args, const RowTile& tile,
                       int first, int n, uint2* to) {
  constexpr int kLoads = kWhole ? 4 : 1;
  const int k = args.w.k, rows = tile.num_rows;
  const int items = (n + kPieceColumns - 1) / kPieceColumns * rows * 4;
  const int thread = static_cast<int>(threadIdx.x);
  for (int i = thread; i < items; i += kLoads * kThreads) {
    float v[kLoads][8] = {};
#pragma unroll
    for (int j = 0; j < kLoads; ++j) {
      const int at = i + j * kThreads;
      if (at >= items) break;
      const EightOfX eight(tile, first, at);
      const float* const from = args.x + eight.row * k + eight.column;
      if (kWhole || (k % 4 == 0 && eight.column + 8 <= k)) {
        LoadEight(from, v[j]);
      } else {
#pragma unroll
        for (int c = 0; c < 8; ++c) {
          if (eight.column + c < k) v[j][c] = __ldg(from + c);
        }
      }
    }
#pragma unroll
    for (int j = 0; j < kLoads; ++j) {
      const int at = i + j * kThreads;
      if (at >= items) break;
      EightOfX(tile, first, at).Store<kPieces>(v[j], rows, to);
    }
  }
}

// The sums of a chunk of 32 rows of w: thread (g, t) of a warp has rows g,
// g + 8, g + 16 and g + 24, and of d[m][u] those of rows 16 m + g and eight
// below for rows 8 u + 2 t and the next of x. `x` is the chunk's, of `rows`
// rows.
template <int kBits, int kProducts, int kPieces>
__device__ __forceinline__ void AddChunk(const Chunk<kBits> (&row)[4],
                                         int group_shift, const uint2* x,
                                         int rows,
                                         float (&total)[2][kProducts][4]) {
  const int lane = static_cast<int>(threadIdx.x) % 32;
  constexpr int kChunk = kChunkPieces<kBits>;
  float sum[2][kProducts][4];
#pragma unroll
  for (int p = 0; p < kChunk; ++p) {
    if (p == 0 || group_shift == 5 || (group_shift == 6 && p % 2 == 0)) {
#pragma unroll
      for (int m = 0; m < 2; ++m) {
#pragma unroll
        for (int u = 0; u < kProducts; ++u) {
#pragma unroll
          for (int i = 0; i < 4; ++i) sum[m][u][i] = 0;
        }
      }
    }
#pragma unroll
    for (int j = 0; j < 2; ++j) {
      uint32_t a[2][4];
#pragma unroll
      for (int m = 0; m < 2; ++m) {
#pragma unroll
        for (int half = 0; half < 2; ++half) {
          const Chunk<kBits>& c = row[2 * m + half];
          const Zero<kBits> zero(c.Zero(p));
          const uint32_t word = c.code[WordOf<kBits>(p, j)];
          if (IsHigh<kBits>(p)) {
            a[m][half] = zero.template Integers<true>(word, 0);
            a[m][half + 2] = zero.template Integers<true>(word, 1);
          } else {
            a[m][half] = zero.template Integers<false>(word, 0);
            a[m][half + 2] = zero.template Integers<false>(word, 1);
          }
        }
      }
#pragma unroll
      for (int u = 0; u < kProducts; ++u) {
#pragma unroll
        for (int q = 0; q < kPieces; ++q) {
          uint2 b = {0, 0};
          if (u * kRows + lane / 4 < rows) {
            b = x[((p * 2 + j) * kPieces + q) * rows * 4 + u * 32 + lane];
          }
          MultiplyAdd(sum[0][u], a[0], b);
          MultiplyAdd(sum[1][u], a[1], b);
        }
      }
    }
    if (p + 1 == kChunk || group_shift == 5 ||
        (group_shift == 6 && p % 2 == 1)) {
#pragma unroll
      for (int m = 0; m < 2; ++m) {
        const float upper = row[2 * m].Scale(p);
        const float lower = row[2 * m + 1].Scale(p);
#pragma unroll
        for (int u = 0; u < kProducts; ++u) {
          float(&to)[4] = total[m][u];
          to[0] = fmaf(upper, sum[m][u][0], to[0]);
          to[1] = fmaf(upper, sum[m][u][1], to[1]);
          to[2] = fmaf(lower, sum[m][u][2], to[2]);
          to[3] = fmaf(lower, sum[m][u][3], to[3]);
        }
      }
    }
  }
}

// Grid: splits (a cluster), tiles of columns of y, tiles of rows. With a
// kGroupShift w is whole (IsWhole), in such groups; 0: as it says.
template <int kBits, int kProducts, int kPieces, int kGroupShift>
__global__ void __launch_bounds__(kThreads, 2)
    FewRowsKernel(const QuantProductArgs args, bool fast) {
  using S = Shape<kProducts>;
  constexpr bool kCopies = kGroupShift > 0;
  constexpr int kPairColumns = 2 * kChunkColumns<kBits>;
  extern __shared__ __align__(16) char memory[];
  auto& shared = *reinterpret_cast<Shared<kProducts>*>(memory);
  const PackedRows& w = args.w;
  const int group_shift = kCopies ? kGroupShift : w.group_shift;
  const int64_t rows = args.rows.Get();
  if (args.num_experts > 0 && blockIdx.x + blockIdx.y + blockIdx.z == 0) {
    CheckOffsets(args.offset, args.num_experts, rows, args.fault);
  }
  RowTile tile;
  if (!TileOfRows<S::kTileRows>(args.offset, args.num_experts, rows,
                                static_cast<int>(blockIdx.z), tile)) {
    return;
  }
  const int splits = static_cast<int>(gridDim.x);
  const int split = static_cast<int>(blockIdx.x);
  const int column = static_cast<int>(blockIdx.y) * S::kTileColumns;
  const int warp = static_cast<int>(threadIdx.x) / 32;
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const int row_warp = warp % S::kRowWarps, depth_warp = warp / S::kRowWarps;

  // Rows of w; those beyond the last are the last.
  const int64_t first_row =
      min(int64_t{column} + row_warp * kWarpRows, w.n - 1);
  const int last_row = static_cast<int>(min(w.n - 1 - first_row, int64_t{31}));
  const uint8_t* const row =
      w.data + (tile.expert * w.n + first_row) * w.row_bytes;
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
                   chunk, fast);
    }
  };
  const auto copy = [&](int from, int to_slot) {
    if (from < end) {
      CopyPair<kBits, kGroupShift>(w, row, last_row, from, to_slot,
                                   shared.w[warp]);
    }
    CommitCopies();
  };
  if constexpr (kCopies) {
#pragma unroll
    for (int i = 0; i < kSlots; ++i) copy(pair + i * S::kDepthWarps, i);
  } else if (pair < end) {
    load(2 * pair);
  }

  float total[2][kProducts][4] = {};
  const int words_of_chunk =
      kChunkColumns<kBits> / 16 * kPieces * tile.num_rows * 4;
  // Pairs whose x fits, as many for each warp.
  const int fit = max(1, kMaxWordsOfX / (2 * words_of_chunk));
  const int segment =
      fit < S::kDepthWarps ? fit : fit / S::kDepthWarps * S::kDepthWarps;
  for (int first = begin; first < end; first += segment) {
    const int last = min(end, first + segment);
    if (first > begin) __syncthreads();  // The segment before has been read.
    StageX<kPieces, kCopies>(args, tile, first * kPairColumns,
                             (last - first) * kPairColumns, shared.x);
    __syncthreads();
    for (; pair < last; pair += S::kDepthWarps) {
      if constexpr (kCopies) {
        WaitForCopies<kSlots - 1>();
        __syncwarp();
      }
#pragma unroll 1
      for (int c = 0; c < 2; ++c) {
        Chunk<kBits> now[4];
        if constexpr (kCopies) {
          const OnItsWay& from = shared.w[warp];
#pragma unroll
          for (int i = 0; i < 4; ++i) {
            const int r = 8 * i + lane / 4;
            now[i].template LoadCopy<kGroupShift>(
                from.code[slot][r] + c * kChunkBytes, from.scale[slot][r],
                2 * pair + c);
          }
        } else {
#pragma unroll
          for (int i = 0; i < 4; ++i) now[i] = next[i];
          load(c == 0 ? 2 * pair + 1 : 2 * (pair + S::kDepthWarps));
        }
#pragma unroll
        for (int i = 0; i < 4; ++i) now[i].Spread(group_shift);
        AddChunk<kBits, kProducts, kPieces>(
            now, group_shift,
            shared.x + (2 * (pair - first) + c) * words_of_chunk, tile.num_rows,
            total);
      }
      if constexpr (kCopies) {
        __syncwarp();  // All have read.
        copy(pair + kSlots * S::kDepthWarps, slot);
        slot = (slot + 1) % kSlots;
      }
    }
  }

  __syncthreads();
#pragma unroll
  for (int m = 0; m < 2; ++m) {
#pragma unroll
    for (int u = 0; u < kProducts; ++u) {
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        shared.sum[depth_warp][u * kRows + lane % 4 * 2 + i % 2]
                  [row_warp * kWarpRows + m * 16 + i / 2 * 8 + lane / 4] =
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
  const int share = S::kTileColumns / splits;
  for (int i = threadIdx.x; i < share * tile.num_rows; i += kThreads) {
    const int at = split * share + i % share, r = i / share;
    float sum = 0;
    for (int s = 0; s < splits; ++s) {
#if __CUDA_ARCH__ >= 900
      const auto* const other = cluster.map_shared_rank(&shared, s);
#else
      const auto* const other = &shared;
#endif
#pragma unroll
      for (int d = 0; d < S::kDepthWarps; ++d) sum += other->sum[d][r][at];
    }
    if (column + at < w.n) {
      args.y[(tile.row + r) * w.n + column + at] = sum;
    }
  }
#if __CUDA_ARCH__ >= 900
  cluster.sync();  // The others may still read here.
#endif
}

constexpr unsigned kSplits[] = {1, 2, 4, 8};

// How many blocks share the columns of x. More of them read more at a time, as
// long as all clusters run at once: of several rounds each costs what it reads,
// and about as much as three pairs of chunks to begin and end.
unsigned ChooseSplits(const void* kernel, cudaLaunchConfig_t config,
                      cudaLaunchAttribute& cluster, int64_t clusters,
                      int64_t pairs_of_warp, int (&active)[4]) {
  unsigned best = 1;
  int64_t least = INT64_MAX;
  for (int i = 0; i < 4; ++i) {
    cluster.val.clusterDim = {kSplits[i], 1, 1};
    config.gridDim = dim3(kSplits[i], 1, 1);
    if (active[i] == 0 && cudaOccupancyMaxActiveClusters(
                              &active[i], kernel, &config) != cudaSuccess) {
      active[i] = 1;
    }
    const int64_t rounds = (clusters + active[i] - 1) / std::max(1, active[i]);
    const int64_t cost =
        rounds * ((pairs_of_warp + kSplits[i] - 1) / kSplits[i] + 3);
    if (cost < least) {
      least = cost;
      best = kSplits[i];
    }
  }
  return best;
}

template <int kBits, int kProducts, int kPieces, int kGroupShift>
cudaError_t Launch(const QuantProductArgs& args, cudaStream_t stream) {
  using S = Shape<kProducts>;
  const auto* const kernel = reinterpret_cast<const void*>(
      FewRowsKernel<kBits, kProducts, kPieces, kGroupShift>);
  constexpr size_t kBytes = kSharedBytes<kProducts, (kGroupShift > 0)>;
  static const cudaError_t allowed = cudaFuncSetAttribute(
      kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, kBytes);
  if (allowed != cudaSuccess) return allowed;
  const int64_t columns = (args.w.n + S::kTileColumns - 1) / S::kTileColumns;
  const int64_t rows = args.rows.bound;
  // Each expert may have a tile that is not full.
  const int64_t tiles = (rows + S::kTileRows - 1) / S::kTileRows +
                        std::min<int64_t>(args.num_experts, rows);
  const int64_t pairs = (args.w.code_bytes + kPairBytes - 1) / kPairBytes;
  cudaLaunchAttribute attribute;
  attribute.id = cudaLaunchAttributeClusterDimension;
  cudaLaunchConfig_t config = {};
  config.blockDim = dim3(kThreads);
  config.dynamicSmemBytes = kBytes;
  config.stream = stream;
  config.attrs = &attribute;
  config.numAttrs = IsHopper() ? 1 : 0;
  static int active[4] = {};
  const unsigned splits =
      config.numAttrs == 0
          ? 1
          : ChooseSplits(kernel, config, attribute, columns * tiles,
                         (pairs + S::kDepthWarps - 1) / S::kDepthWarps, active);
  attribute.val.clusterDim = {splits, 1, 1};
  config.gridDim = dim3(splits, static_cast<unsigned>(columns),
                        static_cast<unsigned>(tiles));
  return cudaLaunchKernelEx(
      &config, FewRowsKernel<kBits, kProducts, kPieces, kGroupShift>, args,
      IsAligned8(args.w));
}

template <int kBits, int kProducts, int kPieces>
cudaError_t LaunchPieces(const QuantProductArgs& args, cudaStream_t stream) {
  if (!IsWhole(args.w)) {
    return Launch<kBits, kProducts, kPieces, 0>(args, stream);
  }
  switch (args.w.group_shift) {
    case 5:
      return Launch<kBits, kProducts, kPieces, 5>(args, stream);
    case 6:
      return Launch<kBits, kProducts, kPieces, 6>(args, stream);
    default:
      return Launch<kBits, kProducts, kPieces, 7>(args, stream);
  }
}

template <int kBits>
cudaError_t LaunchBits(const QuantProductArgs& args, bool exact,
                       cudaStream_t stream) {
  const int64_t experts = std::max(1, args.num_experts);
  const bool one = args.rows.bound <= kRows * experts;
  if (exact) {
    return one ? LaunchPieces<kBits, 1, 3>(args, stream)
               : LaunchPieces<kBits, 2, 3>(args, stream);
  }
  return one ? LaunchPieces<kBits, 1, 1>(args, stream)
             : LaunchPieces<kBits, 2, 1>(args, stream);
}

}  // namespace

PackedRows DescribePacked(const uint8_t* data, int64_t n, int64_t k, int bits,
                          int64_t group, bool symmetric) {
  PackedRows w;
  w.data = data;
  w.n = n;
  w.bits = bits;
  w.k = static_cast<int>(k);
  w.group_shift = group == 32 ? 5 : group == 64 ? 6 : group == 128 ? 7 : 31;
  w.num_groups = group == 0 ? 1 : static_cast<int>(k / group);
  w.code_bytes = static_cast<int>((k + 63) / 64 * 64 * bits / 8);
  w.symmetric = symmetric;
  w.row_bytes = w.code_bytes + int64_t{w.num_groups} * (symmetric ? 2 : 3);
  return w;
}

cudaError_t QuantProduct(const QuantProductArgs& args, bool exact,
                         cudaStream_t stream) {
  if (args.rows.bound == 0 || args.w.n == 0) return cudaSuccess;
  return args.w.bits == 4 ? LaunchBits<4>(args, exact, stream)
                          : LaunchBits<8>(args, exact, stream);
}

}  // namespace strata::gpu
