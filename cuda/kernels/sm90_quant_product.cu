#include <algorithm>
#include <cstdint>

#include "cooperative_groups.h"
#include "cuda/kernels/active_clusters.h"
#include "cuda/kernels/ahead.cuh"
#include "cuda/kernels/packed_chunk.cuh"
#include "cuda/kernels/quant_product.h"
#include "cuda/kernels/quant_round.h"
#include "cuda/kernels/row_tiles.cuh"
#include "cuda/kernels/sm90.cuh"
#include "cuda/kernels/sm90_product.cuh"
#include "cuda/kernels/tensor_map.h"
#include "cuda/runtime/kernel.h"
#include "cuda_bf16.h"

// y^T = w x^T, a block a tile: 128 rows of w by 64, 128 or 256 of x.
//
//   x F32 --rounded (RoundForProduct)--> BF16
//                                                       | the copy engine
//   one or two warpgroups   blocks of 64 columns in     v
//                           turn: codes from memory to  stage: 64 columns
//                           registers, there to BF16     of w and of x
//                           with their scale ---------->
//   two warpgroups          products of 64 rows of w <--
//                           each
//
// So a weight is unpacked once for all rows of x of a tile, while the tensor
// cores are busy with the blocks before it. Blocks of a cluster share the
// columns where there are too few tiles for the GPU; their sums are joined
// through shared memory, in the order of the blocks. Bound by the tensor cores
// for many rows, by unpacking (some 200 cycles a block of 64 columns) for few.

namespace strata::gpu {
namespace {

namespace cg = cooperative_groups;

constexpr int kTileColumns = 128;  // Of y: rows of w.
constexpr int kHalf = 64;          // Rows of w of a warpgroup that multiplies.
constexpr int kDepth = 64;         // Columns of a stage.
constexpr int kMultipliers = 2;
// Sums of 256 rows take so many registers that there is room for one.
template <int kTokens>
constexpr int kUnpackers = kTokens == 256 ? 1 : 2;
template <int kTokens>
constexpr int kThreads = (kUnpackers<kTokens> + kMultipliers) * kWarpgroup;
// That an unpacking warpgroup's four warps have stored theirs, and x its bytes.
constexpr int kArrivals = kWarpgroup / 32 + 1;
// Barrier of the block: of both warpgroups that multiply.
constexpr int kAllRead = 1;
// The second cache is asked for codes so many bytes of a row ahead.
constexpr int kFetchedBytes = 256, kFetchAhead = 512;
// Sums in shared memory begin 4 banks apart.
constexpr int kSumPitch = kTileColumns + 4;

template <int kTokens>
constexpr int kStages = 1536 / (kTokens + kTileColumns);  // 192 KB of them.
static_assert(kStages<256> % 2 == 0 && kStages<128> % 2 == 0 &&
              kStages<64> % 2 == 0);  // Each is always the same warpgroup's.

struct Args {
  QuantProductArgs product;
  bool fast = false;  // Rows are aligned to 16 bytes.
};

template <int kTokens>
struct Shared {
  union {
    struct {
      __nv_bfloat16 x[kStages<kTokens>][kTokens * kDepth];
      __nv_bfloat16 w[kStages<kTokens>][kTileColumns * kDepth];
    };
    float sum[kTokens][kSumPitch];
  };
  uint64_t full[kStages<kTokens>], empty[kStages<kTokens>];
};
template <int kTokens>
constexpr size_t kSharedBytes = sizeof(Shared<kTokens>) + kSwizzleBytes;

#if STRATA_SM90A

__device__ __forceinline__ void PrefetchToL2(const void* p) {
  asm volatile("prefetch.global.L2 [%0];" ::"l"(p));
}

__device__ __forceinline__ uint4 LoadSixteenBytes(const uint8_t* p) {
  uint4 v;
  asm volatile("ld.global.nc.L2::256B.v4.u32 {%0, %1, %2, %3}, [%4];"
               : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w)
               : "l"(p));
  return v;
}

// 64 columns of a thread's row of w, as they are stored. It has every
// `turns`-th of them.
template <int kBits>
struct Block {
  static constexpr int kBytes = kDepth * kBits / 8;
  static constexpr int kPieces = 2;  // Of 32 columns, each of one scale.
  uint32_t code[kBytes / 4];
  uint32_t scale[kPieces];
  uint32_t zero[kPieces];

  __device__ __forceinline__ void Load(const PackedRows& w, const uint8_t* row,
                                       int block, int turns, bool fast) {
    const uint8_t* const at = row + int64_t{block} * kBytes;
    if (fast) {
#pragma unroll
      for (int i = 0; i < kBytes / 16; ++i) {
        const uint4 v = LoadSixteenBytes(at + 16 * i);
        code[4 * i] = v.x, code[4 * i + 1] = v.y;
        code[4 * i + 2] = v.z, code[4 * i + 3] = v.w;
      }
      if (block * kBytes % kFetchedBytes < turns * kBytes &&
          block * kBytes + kFetchAhead < w.code_bytes) {
        PrefetchToL2(at + kFetchAhead);
      }
    } else {
#pragma unroll
      for (int i = 0; i < kBytes / 8; ++i) {
        const uint2 v = LoadUnaligned(at + 8 * i);
        code[2 * i] = v.x, code[2 * i + 1] = v.y;
      }
    }
    const uint8_t* const scales = row + w.code_bytes;
#pragma unroll
    for (int p = 0; p < kPieces; ++p) {
      // Columns that fill up a row have codes of 0 and zeros of x.
      const int group =
          min((block * kDepth + p * kPieceColumns) >> w.group_shift,
              w.num_groups - 1);
      const uint8_t* const from = scales + 2 * group;
      scale[p] = fast ? __ldg(reinterpret_cast<const uint16_t*>(from))
                      : __ldg(from) | __ldg(from + 1) << 8;
      zero[p] = w.symmetric ? 1u << (kBits - 1)
                            : __ldg(scales + 2 * w.num_groups + group);
    }
  }

  // To row `r` of a stage, swizzled.
  __device__ __forceinline__ void Store(__nv_bfloat16* to, int r) const {
    auto* const vector = reinterpret_cast<uint4*>(to + r * kDepth);
#pragma unroll
    for (int p = 0; p < kPieces; ++p) {
      const Zero<kBits> number(zero[p]);
      const uint32_t scale_twice = scale[p] * 0x10001u;
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        uint32_t pair[4];
#pragma unroll
        for (int j = 0; j < 4; ++j) {
          const uint32_t word = code[(kBits == 4 ? 0 : 8 * p) + 2 * i + j / 2];
          pair[j] =
              p == 1 && kBits == 4
                  ? number.template Weights<true>(word, j % 2, scale_twice)
                  : number.template Weights<false>(word, j % 2, scale_twice);
        }
        vector[(4 * p + i) ^ (r % 8)] = {pair[0], pair[1], pair[2], pair[3]};
      }
    }
  }
};

// Blocks of columns [begin, end) of a block of threads.
struct Range {
  int begin, end;
};

// How many blocks of columns a thread has in registers before it needs them.
template <int kBits>
constexpr int kBlocksAhead = kBits == 4 ? 2 : 1;

template <int kBits, int kTokens>
__device__ __forceinline__ void LoadFirst(
    const Args& args, const uint8_t* row, Range range, int group,
    Block<kBits> (&ahead)[kBlocksAhead<kBits>]) {
#pragma unroll
  for (int a = 0; a < kBlocksAhead<kBits>; ++a) {
    const int block = range.begin + group + kUnpackers<kTokens> * a;
    if (block < range.end) {
      ahead[a].Load(args.product.w, row, block, kUnpackers<kTokens>, args.fast);
    }
  }
}

// Fills stages, in turns with the other warpgroup.
template <int kBits, int kTokens>
__device__ __forceinline__ void Unpack(
    const Args& args, Shared<kTokens>& shared, const CUtensorMap* map,
    int64_t first_row, const uint8_t* row, Range range, int group,
    Block<kBits> (&ahead)[kBlocksAhead<kBits>]) {
  constexpr int kAhead = kBlocksAhead<kBits>;
  constexpr int kNumStages = kStages<kTokens>;
  constexpr int kTurn = kUnpackers<kTokens>;
  const int thread = static_cast<int>(threadIdx.x) % kWarpgroup;
  for (int base = range.begin + group; base < range.end;
       base += kTurn * kAhead) {
#pragma unroll
    for (int a = 0; a < kAhead; ++a) {
      const int block = base + kTurn * a;
      if (block >= range.end) break;
      const int i = block - range.begin;
      const int stage = i % kNumStages;
      Wait(&shared.empty[stage], i / kNumStages % 2 ^ 1);
      if (thread == 0) {
        ArriveExpecting(&shared.full[stage], kTokens * kDepth * 2);
        LoadBox(map, shared.x[stage], &shared.full[stage], block * kDepth,
                static_cast<int>(first_row), 0);
      }
      ahead[a].Store(shared.w[stage], thread);
      FenceSharedStores();
      __syncwarp();
      if (thread % 32 == 0) Arrive(&shared.full[stage]);
      const int next = block + kTurn * kAhead;
      if (next < range.end) {
        ahead[a].Load(args.product.w, row, next, kTurn, args.fast);
      }
    }
  }
}

template <int kTokens>
__device__ __forceinline__ void MultiplyAll(Shared<kTokens>& shared,
                                            int num_blocks, int half,
                                            float (&sum)[kTokens / 2]) {
  constexpr int kNumStages = kStages<kTokens>;
  const bool speaks = threadIdx.x % kWarpgroup == 0;
  for (int i = 0; i < num_blocks; ++i) {
    const int stage = i % kNumStages;
    Wait(&shared.full[stage], i / kNumStages % 2);
    const uint64_t a = Describe(shared.w[stage] + half * kHalf * kDepth);
    const uint64_t b = Describe(shared.x[stage]);
    BeginProducts();
#pragma unroll
    for (int q = 0; q < kDepth / 16; ++q) {
      Multiply<kInner, kInner>(sum, Advance(a, q * kStep16<kInner>),
                               Advance(b, q * kStep16<kInner>), i > 0 || q > 0);
    }
    EndProducts();
    WaitForProducts<1>();
    if (i > 0 && speaks) Arrive(&shared.empty[(i - 1) % kNumStages]);
  }
  WaitForProducts<0>();
}

#endif  // STRATA_SM90A

// Grid: splits (a cluster), tiles of columns of y, tiles of rows.
template <int kBits, int kTokens>
__global__ void __launch_bounds__(kThreads<kTokens>, 1)
    ManyRowsKernel(const Args args, const __grid_constant__ CUtensorMap map) {
#if STRATA_SM90A
  extern __shared__ char memory[];
  auto& shared = *reinterpret_cast<Shared<kTokens>*>(
      (reinterpret_cast<uintptr_t>(memory) + kSwizzleBytes - 1) /
      kSwizzleBytes * kSwizzleBytes);
  const QuantProductArgs& p = args.product;
  const int splits = static_cast<int>(gridDim.x);
  const int split = static_cast<int>(blockIdx.x);
  const int group = __shfl_sync(0xffffffff, threadIdx.x / kWarpgroup, 0);
  const int thread = static_cast<int>(threadIdx.x) % kWarpgroup;
  const int64_t first_column = int64_t{blockIdx.y} * kTileColumns;
  const int blocks = (p.w.k + kDepth - 1) / kDepth;
  const Range range = {blocks * split / splits, blocks * (split + 1) / splits};
  const uint8_t* row =
      p.w.data + min(first_column + thread, p.w.n - 1) * p.w.row_bytes;
  Block<kBits> ahead[kBlocksAhead<kBits>];
  if (threadIdx.x == 0) {
    PrefetchMap(&map);
    for (int i = 0; i < kStages<kTokens>; ++i) {
      InitBarrier(&shared.full[i], kArrivals);
      InitBarrier(&shared.empty[i], kMultipliers);
    }
    FenceBarrierInit();
  }
  if (p.num_experts == 0 && group < kUnpackers<kTokens>) {
    LoadFirst<kBits, kTokens>(args, row, range, group, ahead);
  }
  WaitForEarlier();
  LetLaterBegin();
  const int64_t rows = p.rows.Get();
  if (p.num_experts > 0 && blockIdx.x + blockIdx.y + blockIdx.z == 0) {
    CheckOffsets(p.offset, p.num_experts, rows, p.fault);
  }
  RowTile tile;
  if (!TileOfRows<kTokens>(p.offset, p.num_experts, rows,
                           static_cast<int>(blockIdx.z), tile)) {
    return;
  }
  __syncthreads();
  if (group < kUnpackers<kTokens>) {
    ShrinkRegisters<(kUnpackers<kTokens> == 1 ? 104 : 88)>();
    if (p.num_experts > 0) {
      row += tile.expert * p.w.n * p.w.row_bytes;
      LoadFirst<kBits, kTokens>(args, row, range, group, ahead);
    }
    Unpack<kBits, kTokens>(args, shared, &map, tile.row, row, range, group,
                           ahead);
  } else {
    GrowRegisters<(kUnpackers<kTokens> == 1 ? 200 : 168)>();
    const int half = group - kUnpackers<kTokens>;
    float sum[kTokens / 2];
#pragma unroll
    for (int i = 0; i < kTokens / 2; ++i) sum[i] = 0;
    MultiplyAll<kTokens>(shared, range.end - range.begin, half, sum);
    const int w_row = half * kHalf + thread / 32 * 16 + thread % 32 / 4;
    if (splits > 1) SyncThreads(kAllRead, kMultipliers * kWarpgroup);
#pragma unroll
    for (int i = 0; i < kTokens / 2; ++i) {
      const int token = i / 4 * 8 + thread % 4 * 2 + i % 2;
      const int of_tile = w_row + i % 4 / 2 * 8;
      if (splits > 1) {
        shared.sum[token][of_tile] = sum[i];
      } else if (token < tile.num_rows && first_column + of_tile < p.w.n) {
        p.y[(tile.row + token) * p.w.n + first_column + of_tile] = sum[i];
      }
    }
  }
  if (splits == 1) return;

  cg::cluster_group cluster = cg::this_cluster();
  cluster.sync();
  // Each block has a share of the rows of x.
  const int share = kTokens / splits;
  const int used = min(share, max(0, tile.num_rows - split * share));
  for (int i = threadIdx.x; i < used * kTileColumns; i += kThreads<kTokens>) {
    const int token = split * share + i / kTileColumns;
    const int64_t n = i % kTileColumns;
    float joined = 0;
    for (int s = 0; s < splits; ++s) {
      joined +=
          cluster.map_shared_rank(&shared.sum[0][0], s)[token * kSumPitch + n];
    }
    if (first_column + n < p.w.n) {
      p.y[(tile.row + token) * p.w.n + first_column + n] = joined;
    }
  }
  cluster.sync();  // The others may still read here.
#endif
}

int64_t Ceil(int64_t a, int64_t b) { return (a + b - 1) / b; }

// How many blocks of a cluster share the columns: as many as make use of the
// GPU in the fewest steps. To begin and end takes as much as some blocks of
// columns, to join sums, too.
unsigned ChooseSplits(int64_t tiles, int64_t blocks,
                      const int (&active)[kNumClusterSizes]) {
  constexpr int64_t kRoundCost = 8, kJoinCost = 4;
  unsigned best = 1;
  int64_t least = INT64_MAX;
  for (int i = 0; i < kNumClusterSizes; ++i) {
    if (active[i] == 0) continue;
    const int64_t cost =
        Ceil(tiles, active[i]) *
        (Ceil(blocks, 1 << i) + kRoundCost + (i > 0 ? kJoinCost : 0));
    if (cost < least) {
      least = cost;
      best = 1u << i;
    }
  }
  return best;
}

template <int kBits, int kTokens>
cudaError_t Launch(const QuantProductArgs& product, const __nv_bfloat16* x,
                   cudaStream_t stream) {
  auto* const kernel = ManyRowsKernel<kBits, kTokens>;
  const auto* const function = reinterpret_cast<const void*>(kernel);
  const cudaError_t allowed = cudaFuncSetAttribute(
      function, cudaFuncAttributeMaxDynamicSharedMemorySize,
      kSharedBytes<kTokens>);
  if (allowed != cudaSuccess) return allowed;
  static const ActiveClusters active(function, kThreads<kTokens>,
                                     kSharedBytes<kTokens>);
  BoxedTensor tensor;
  tensor.data = x;
  tensor.columns = tensor.pitch = RoundedColumns(product.w);
  tensor.rows = product.rows.bound;
  tensor.box_rows = kTokens;
  CUtensorMap map;
  if (const cudaError_t e = MakeTensorMap(tensor, &map); e) return e;
  Args args;
  args.product = product;
  args.fast = product.w.row_bytes % 16 == 0 && product.w.code_bytes % 16 == 0 &&
              reinterpret_cast<uintptr_t>(product.w.data) % 16 == 0;
  const int64_t columns = Ceil(product.w.n, kTileColumns);
  const int64_t tiles =
      Ceil(product.rows.bound, kTokens) +
      std::min<int64_t>(product.num_experts, product.rows.bound);
  const unsigned splits =
      ChooseSplits(columns * tiles, Ceil(product.w.k, kDepth), active.of);
  cudaLaunchAttribute attributes[2];
  attributes[0].id = cudaLaunchAttributeClusterDimension;
  attributes[0].val.clusterDim = {splits, 1, 1};
  attributes[1].id = cudaLaunchAttributeProgrammaticStreamSerialization;
  attributes[1].val.programmaticStreamSerializationAllowed = 1;
  cudaLaunchConfig_t config = {};
  config.gridDim = dim3(splits, static_cast<unsigned>(columns),
                        static_cast<unsigned>(tiles));
  config.blockDim = dim3(kThreads<kTokens>);
  config.dynamicSmemBytes = kSharedBytes<kTokens>;
  config.stream = stream;
  config.attrs = attributes;
  config.numAttrs = 2;
  return cudaLaunchKernelEx(&config, kernel, args, map);
}

template <int kBits>
cudaError_t LaunchBits(const QuantProductArgs& args, const __nv_bfloat16* x,
                       cudaStream_t stream) {
  const int64_t experts = std::max(1, args.num_experts);
  if (args.rows.bound <= 64 * experts) {
    return Launch<kBits, 64>(args, x, stream);
  }
  return args.rows.bound <= 128 * experts ? Launch<kBits, 128>(args, x, stream)
                                          : Launch<kBits, 256>(args, x, stream);
}

}  // namespace

cudaError_t QuantProductSm90(const QuantProductArgs& args,
                             __nv_bfloat16* rounded, cudaStream_t stream) {
  if (args.rows.bound == 0 || args.w.n == 0) return cudaSuccess;
  if (!IsHopper()) return cudaErrorNotSupported;
  const cudaError_t error = RoundForProduct(args, rounded, stream);
  if (error != cudaSuccess) return error;
  return args.w.bits == 4 ? LaunchBits<4>(args, rounded, stream)
                          : LaunchBits<8>(args, rounded, stream);
}

}  // namespace strata::gpu
