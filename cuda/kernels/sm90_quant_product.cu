#include <algorithm>
#include <cstdint>

#include "cuda/kernels/packed_chunk.cuh"
#include "cuda/kernels/quant_product.h"
#include "cuda/kernels/row_tiles.cuh"
#include "cuda/kernels/sm90.cuh"
#include "cuda/kernels/sm90_product.cuh"
#include "cuda/kernels/tensor_map.h"
#include "cuda/runtime/kernel.h"
#include "cuda_bf16.h"

// y^T = w x^T, a block a tile: 128 rows of w by 128 of x, or 64 by 64.
//
//   x F32 --rounded, 16 columns in the order of packed_chunk.cuh--> BF16
//                                                                     |
//   warpgroup 0      one thread loads 64 columns of x at a time into the next
//                    of eight stages, half of them for the other block of the
//                    cluster, which has other rows of w
//   warpgroup 1, 2   64 rows of w each: codes come from memory to registers, a
//                    step of 128 columns ahead, become BF16 there, and are the
//                    first operand of products whose second is x in shared
//                    memory. They take turns: one makes weights of codes while
//                    the other multiplies. Of 64 by 64, both have the same
//                    rows, and every other step
//
// Bound by the tensor cores for many rows, by reading w for few.

namespace strata::gpu {
namespace {

constexpr int kHalf = 64;   // Rows of w of a warpgroup.
constexpr int kDepth = 64;  // Columns of x in a stage.
constexpr int kStages = 8;
constexpr int kCluster = 2;
constexpr int kThreads = 3 * kWarpgroup;
constexpr int kStepColumns = 128;
// Steps that the second cache is ahead of registers.
constexpr int kAhead = 4;
// Barriers of the block: of sums, and of the turns of both warpgroups.
constexpr int kSums = 1, kTurn = 2;
constexpr int kRoundThreads = 256;

struct Args {
  QuantProductArgs product;
  int steps = 0;
  bool fast = false;
};

template <int kTokens>
struct Shared {
  __nv_bfloat16 x[kStages][kTokens * kDepth];
  // Of a warpgroup that shares its rows with the other.
  float sum[kTokens == kHalf ? kTokens / 2 : 1][kWarpgroup];
  uint64_t full[kStages], empty[kStages];
};
template <int kTokens>
constexpr size_t kSharedBytes = sizeof(Shared<kTokens>) + kSwizzleBytes;

// Whether both warpgroups have the same rows of w.
template <int kTokens>
constexpr bool kSharesRows = kTokens == kHalf;
template <int kTokens>
constexpr int kTileColumns = kSharesRows<kTokens> ? kHalf : 2 * kHalf;

// --- Rows of x ---

// y [rows, padded]: of each 32 columns, those of step 0 in the order of its
// slots, then those of step 1; zeros behind the last. A thread eight at a time.
__global__ void __launch_bounds__(kRoundThreads)
    RoundKernel(Extent extent, int k, int padded, const float* x,
                __nv_bfloat16* y) {
  const int64_t pieces = padded / 8, all = extent.Get() * pieces;
  for (int64_t i = int64_t{blockIdx.x} * kRoundThreads + threadIdx.x; i < all;
       i += int64_t{gridDim.x} * kRoundThreads) {
    const int64_t row = i / pieces;
    const int at = static_cast<int>(i % pieces) * 8;
    const int first = at / kPieceColumns * kPieceColumns;
    const int step = at % kPieceColumns / 16, half = at % 16;
    uint32_t pair[4];
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      const int even = first + ColumnOfSlot(step, half + 2 * j);
      const int odd = even + 2;
      pair[j] = PairOf(
          __floats2bfloat162_rn(even < k ? __ldg(x + row * k + even) : 0.f,
                                odd < k ? __ldg(x + row * k + odd) : 0.f));
    }
    *reinterpret_cast<uint4*>(y + i * 8) = {pair[0], pair[1], pair[2], pair[3]};
  }
}

#if STRATA_SM90A

// The first lane's, so that the compiler knows the warp to be of one mind.
__device__ __forceinline__ int Uniform(int x) {
  return __shfl_sync(0xffffffff, x, 0);
}

__device__ __forceinline__ void PrefetchToL2(const void* p) {
  asm volatile("prefetch.global.L2 [%0];" ::"l"(p));
}

// Makes these registers known where this stands, before the fence behind it:
// products that find one made later are issued one by one.
__device__ __forceinline__ void Settle(uint32_t (&a)[4][4]) {
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    asm volatile(""
                 : "+r"(a[i][0]), "+r"(a[i][1]), "+r"(a[i][2]), "+r"(a[i][3])
                 :
                 : "memory");
  }
}

// 128 columns of a thread's two rows of w.
template <int kBits>
struct Step {
  static constexpr int kChunks = kBits / 4;
  Chunk<kBits> row[2][kChunks];

  __device__ __forceinline__ void Load(const PackedRows& w,
                                       const uint8_t* const (&from)[2],
                                       int step, bool fast) {
#pragma unroll
    for (int i = 0; i < 2; ++i) {
#pragma unroll
      for (int c = 0; c < kChunks; ++c) {
        row[i][c].Load(w, from[i], step * kChunks + c, fast);
      }
    }
  }

  __device__ __forceinline__ void Spread(int group_shift) {
#pragma unroll
    for (int i = 0; i < 2; ++i) {
#pragma unroll
      for (int c = 0; c < kChunks; ++c) row[i][c].Spread(group_shift);
    }
  }

  // Weights of columns [64 kBox, 64 kBox + 64), of four products.
  template <int kBox>
  __device__ __forceinline__ void Weights(uint32_t (&a)[4][4]) const {
    constexpr int kChunk = kBits == 4 ? 0 : kBox;
#pragma unroll
    for (int of_box = 0; of_box < 2; ++of_box) {
      const int p = kBits == 4 ? 2 * kBox + of_box : of_box;
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        const Chunk<kBits>& c = row[i][kChunk];
        const Zero<kBits> zero(c.Zero(p));
        const uint32_t scale = c.ScaleTwice(p);
#pragma unroll
        for (int j = 0; j < 2; ++j) {
          uint32_t(&to)[4] = a[of_box * 2 + j];
          const uint32_t word = c.code[WordOf<kBits>(p, j)];
          if (IsHigh<kBits>(p)) {
            to[i] = zero.template Weights<true>(word, 0, scale);
            to[i + 2] = zero.template Weights<true>(word, 1, scale);
          } else {
            to[i] = zero.template Weights<false>(word, 0, scale);
            to[i + 2] = zero.template Weights<false>(word, 1, scale);
          }
        }
      }
    }
  }
};

// One thread: keeps the stages full.
template <int kTokens>
__device__ void LoadRows(const Args& args, Shared<kTokens>& shared,
                         const CUtensorMap* map, int64_t first_row, int rank) {
  constexpr int kShare = kTokens / kCluster;
  for (int i = 0; i < 2 * args.steps; ++i) {
    const int stage = i % kStages;
    Wait(&shared.empty[stage], i / kStages % 2 ^ 1);
    uint64_t* const full = &shared.full[stage];
    ArriveExpecting(full, kTokens * kDepth * 2);
    LoadBoxToAll(map, shared.x[stage] + rank * kShare * kDepth, full,
                 i * kDepth, static_cast<int>(first_row) + rank * kShare, 0,
                 (1 << kCluster) - 1);
  }
}

// Products of a warpgroup: every step, in turns with the other, or every other
// from its `group` on.
template <int kBits, int kTokens>
__device__ __forceinline__ void MultiplySteps(const Args& args,
                                              Shared<kTokens>& shared,
                                              const uint8_t* const (&row)[2],
                                              int group,
                                              float (&sum)[kTokens / 2]) {
  constexpr bool kShares = kSharesRows<kTokens>;
  constexpr int kStride = kShares ? 2 : 1;
  const PackedRows& w = args.product.w;
  const int thread = static_cast<int>(threadIdx.x) % kWarpgroup;
  const int first = kShares ? group : 0;
  Step<kBits> codes;
  if (first < args.steps) codes.Load(w, row, first, args.fast);
  for (int step = first; step < args.steps; step += kStride) {
    codes.Spread(w.group_shift);
    uint32_t a[2][4][4];
    codes.template Weights<0>(a[0]);
    codes.template Weights<1>(a[1]);
    Settle(a[0]);
    Settle(a[1]);
    if (step + kStride < args.steps) {
      codes.Load(w, row, step + kStride, args.fast);
    }
    const int64_t ahead = int64_t{step + kAhead * kStride} * (16 * kBits);
    if (thread % 4 < 2 && ahead < w.code_bytes) {
      PrefetchToL2((thread % 4 == 0 ? row[0] : row[1]) + ahead);
    }
    if (!kShares && step + group > 0) {
      SyncThreads(kTurn + group, 2 * kWarpgroup);
    }
    const int stage = 2 * step % kStages;
    const uint32_t phase = 2 * step / kStages % 2;
    Wait(&shared.full[stage], phase);
    Wait(&shared.full[stage + 1], phase);
    const uint64_t b[2] = {Describe(shared.x[stage]),
                           Describe(shared.x[stage + 1])};
    BeginProducts();
#pragma unroll
    for (int box = 0; box < 2; ++box) {
#pragma unroll
      for (int q = 0; q < kDepth / 16; ++q) {
        Multiply<kInner>(sum, a[box][q], Advance(b[box], q * kStep16<kInner>),
                         step > first || box > 0 || q > 0);
      }
    }
    EndProducts();
    WaitForProducts<0>();
    if (!kShares && (group == 0 || step + 1 < args.steps)) {
      ArriveThreads(kTurn + 1 - group, 2 * kWarpgroup);
    }
    if (thread < 2 * kCluster) {
      ArriveAt(&shared.empty[stage + thread / kCluster], thread % kCluster);
    }
  }
}

#endif  // STRATA_SM90A

// Grid: tiles of columns of y in pairs, tiles of rows.
template <int kBits, int kTokens>
__global__ void __launch_bounds__(kThreads, 1)
    ManyRowsKernel(const Args args, const __grid_constant__ CUtensorMap map) {
#if STRATA_SM90A
  extern __shared__ char memory[];
  auto& shared = *reinterpret_cast<Shared<kTokens>*>(
      (reinterpret_cast<uintptr_t>(memory) + kSwizzleBytes - 1) /
      kSwizzleBytes * kSwizzleBytes);
  constexpr bool kShares = kSharesRows<kTokens>;
  const QuantProductArgs& p = args.product;
  const int64_t rows = p.rows.Get();
  if (p.num_experts > 0 && blockIdx.x + blockIdx.y == 0) {
    CheckOffsets(p.offset, p.num_experts, rows, p.fault);
  }
  RowTile tile;
  if (!TileOfRows<kTokens>(p.offset, p.num_experts, rows,
                           static_cast<int>(blockIdx.y), tile)) {
    return;
  }
  const int rank = static_cast<int>(ClusterRank());
  if (threadIdx.x == 0) {
    PrefetchMap(&map);
    for (int i = 0; i < kStages; ++i) {
      InitBarrier(&shared.full[i], 1);
      InitBarrier(&shared.empty[i], (kShares ? 1 : 2) * kCluster);
    }
    FenceBarrierInit();
  }
  __syncthreads();
  SyncCluster();
  if (threadIdx.x < kWarpgroup) {
    ShrinkRegisters<40>();
    if (threadIdx.x == 0) LoadRows(args, shared, &map, tile.row, rank);
    __syncwarp();
  } else {
    GrowRegisters<232>();
    const int group = Uniform(static_cast<int>(threadIdx.x) / kWarpgroup) - 1;
    const int thread = static_cast<int>(threadIdx.x) % kWarpgroup;
    const int64_t column = int64_t{blockIdx.x} * kTileColumns<kTokens> +
                           (kShares ? 0 : group * kHalf) + thread / 32 * 16 +
                           thread % 32 / 4;
    const uint8_t* row[2];
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      row[i] =
          p.w.data + (tile.expert * p.w.n + min(column + 8 * i, p.w.n - 1)) *
                         p.w.row_bytes;
    }
    float sum[kTokens / 2];
#pragma unroll
    for (int i = 0; i < kTokens / 2; ++i) sum[i] = 0;
    MultiplySteps<kBits, kTokens>(args, shared, row, group, sum);
    if constexpr (kShares) {
      if (group == 1) {
#pragma unroll
        for (int i = 0; i < kTokens / 2; ++i) shared.sum[i][thread] = sum[i];
        ArriveThreads(kSums, 2 * kWarpgroup);
      } else {
        SyncThreads(kSums, 2 * kWarpgroup);
#pragma unroll
        for (int i = 0; i < kTokens / 2; ++i) sum[i] += shared.sum[i][thread];
      }
    }
    if (!kShares || group == 0) {
#pragma unroll
      for (int i = 0; i < kTokens / 2; ++i) {
        const int token = i / 4 * 8 + thread % 4 * 2 + i % 2;
        const int64_t n = column + i % 4 / 2 * 8;
        if (token < tile.num_rows && n < p.w.n) {
          p.y[(tile.row + token) * p.w.n + n] = sum[i];
        }
      }
    }
  }
  // The other block may still write and arrive here.
  SyncCluster();
#endif
}

int64_t Ceil(int64_t a, int64_t b) { return (a + b - 1) / b; }

int64_t PaddedColumns(const PackedRows& w) { return Ceil(w.k, 64) * 64; }

template <int kBits, int kTokens>
cudaError_t Launch(const QuantProductArgs& product, const __nv_bfloat16* x,
                   cudaStream_t stream) {
  auto* const kernel = ManyRowsKernel<kBits, kTokens>;
  static const cudaError_t allowed = cudaFuncSetAttribute(
      reinterpret_cast<const void*>(kernel),
      cudaFuncAttributeMaxDynamicSharedMemorySize, kSharedBytes<kTokens>);
  if (allowed != cudaSuccess) return allowed;
  BoxedTensor tensor;
  tensor.data = x;
  tensor.columns = tensor.pitch = PaddedColumns(product.w);
  tensor.rows = product.rows.bound;
  tensor.box_rows = kTokens / kCluster;
  CUtensorMap map;
  if (const cudaError_t e = MakeTensorMap(tensor, &map); e) return e;
  Args args;
  args.product = product;
  args.steps = static_cast<int>(Ceil(product.w.k, kStepColumns));
  args.fast = product.w.row_bytes % 8 == 0 &&
              reinterpret_cast<uintptr_t>(product.w.data) % 8 == 0;
  const int64_t pairs =
      Ceil(product.w.n, int64_t{kTileColumns<kTokens>} * kCluster);
  const int64_t tiles =
      Ceil(product.rows.bound, kTokens) +
      std::min<int64_t>(product.num_experts, product.rows.bound);
  cudaLaunchAttribute attribute;
  attribute.id = cudaLaunchAttributeClusterDimension;
  attribute.val.clusterDim = {kCluster, 1, 1};
  cudaLaunchConfig_t config = {};
  config.gridDim = dim3(static_cast<unsigned>(pairs * kCluster),
                        static_cast<unsigned>(tiles));
  config.blockDim = dim3(kThreads);
  config.dynamicSmemBytes = kSharedBytes<kTokens>;
  config.stream = stream;
  config.attrs = &attribute;
  config.numAttrs = 1;
  return cudaLaunchKernelEx(&config, kernel, args, map);
}

template <int kBits>
cudaError_t LaunchBits(const QuantProductArgs& args, const __nv_bfloat16* x,
                       cudaStream_t stream) {
  const int64_t experts = std::max(1, args.num_experts);
  return args.rows.bound <= kHalf * experts
             ? Launch<kBits, 64>(args, x, stream)
             : Launch<kBits, 128>(args, x, stream);
}

}  // namespace

int64_t RoundedElements(const QuantProductArgs& args) {
  return args.rows.bound * PaddedColumns(args.w);
}

cudaError_t QuantProductSm90(const QuantProductArgs& args,
                             __nv_bfloat16* rounded, cudaStream_t stream) {
  if (args.rows.bound == 0 || args.w.n == 0) return cudaSuccess;
  if (!IsHopper()) return cudaErrorNotSupported;
  const int64_t padded = PaddedColumns(args.w);
  const int64_t blocks = std::min<int64_t>(
      132 * 16, Ceil(args.rows.bound * padded / 8, kRoundThreads));
  RoundKernel<<<static_cast<unsigned>(blocks), kRoundThreads, 0, stream>>>(
      args.rows, args.w.k, static_cast<int>(padded), args.x, rounded);
  if (const cudaError_t e = cudaGetLastError(); e) return e;
  return args.w.bits == 4 ? LaunchBits<4>(args, rounded, stream)
                          : LaunchBits<8>(args, rounded, stream);
}

}  // namespace strata::gpu
