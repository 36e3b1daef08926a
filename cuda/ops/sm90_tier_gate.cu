// A tier's gate with its projection, in one launch.
//
//   cluster of C blocks        64 tokens
//     block q                  x [64, columns q, q + C, ... of 64] by the
//     weight
//       warpgroup w            16 of each 64 columns, in the tensor cores
//     sums of four warpgroups, then over the cluster: 64 / C tokens a block
//     tier_gate.cuh            all that follows, for these tokens
//
// The weight's pieces come by the copy engine into a ring of stages; x goes
// from memory to registers, where it is split into as many pieces. Within 16
// columns the weight's are ordered so that a thread's four of x lie together.
//
// Bound by the tensor cores for three pieces (six products of 2 x 96 x d FLOPs
// a token), by x and the latency of what follows for one.

#include <algorithm>
#include <cstdint>

#include "cuda/kernels/ahead.cuh"
#include "cuda/kernels/sm90.cuh"
#include "cuda/kernels/sm90_product.cuh"
#include "cuda/kernels/tensor_map.h"
#include "cuda/ops/device.cuh"
#include "cuda/ops/tier_gate.cuh"
#include "cuda/ops/tier_gate.h"
#include "cuda_bf16.h"

namespace strata::gpu {
namespace {

constexpr int kChunk = kSwizzleColumns;  // Columns of a stage.
constexpr int kMaxStages = 6;
constexpr int kMinStages = 2;
constexpr int kMaxSharedBytes = 227 << 10;
constexpr int kGroups = kGateThreads / kWarpgroup;
static_assert(kGroups * 16 == kChunk, "a warpgroup takes 16 columns");

// Tokens in flight on their way to registers.
constexpr int kAhead = 4;

struct ProjectionLayout {
  int stages = 0, clusters = 1;  // Of shared memory; blocks of a cluster.
  int chunks = 0;                // Of x's columns.
  int region_bytes = 0;          // Stages, and later sums and rows.
  int shared_bytes = 0;
};

// Sums of a warpgroup, or the block, in shared memory.
template <int kColumns>
constexpr int kSumPitch = kColumns + 4;
template <int kColumns>
constexpr int kSumFloats = kProjectedTokens* kSumPitch<kColumns>;

template <int kColumns>
ProjectionLayout LayoutOf(const TierGateArgs& a, const GateLayout& l,
                          int pieces) {
  ProjectionLayout p;
  const int stage_bytes = pieces * kColumns * kChunk * 2;
  const int around = static_cast<int>(sizeof(float)) * l.expert_floats +
                     2 * kMaxStages * static_cast<int>(sizeof(uint64_t)) +
                     kSwizzleBytes;
  const int sum_bytes =
      static_cast<int>(sizeof(float)) * kSumFloats<kColumns> * (1 + kGroups);
  const int row_bytes =
      static_cast<int>(sizeof(float)) * (kSumFloats<kColumns> + l.row_floats);
  p.chunks = static_cast<int>(a.d / kChunk);
  p.clusters = kProjectedTokens / a.tile_tokens;
  p.stages = std::clamp(
      (kMaxSharedBytes - around) / stage_bytes, 0,
      std::min(kMaxStages, std::max(kMinStages, p.chunks / p.clusters)));
  p.region_bytes = std::max({p.stages * stage_bytes, sum_bytes, row_bytes});
  p.region_bytes = (p.region_bytes + 15) / 16 * 16;
  p.shared_bytes = p.region_bytes + around;
  return p;
}

#if STRATA_SM90A

// Two floats' BF16 in a register, the first low, and what that leaves of them.
__device__ __forceinline__ uint32_t TakePiece(float& x, float& y) {
  const __nv_bfloat162 pair = __floats2bfloat162_rn(x, y);
  x -= __low2float(pair);
  y -= __high2float(pair);
  return *reinterpret_cast<const uint32_t*>(&pair);
}

// Of a token's two rows in a warpgroup's product, four columns each.
struct TokenColumns {
  float4 upper, lower;
};

// sum += x (split into pieces) * the weight's pieces at `stage`, 16 columns:
// of all pairs of pieces those whose product counts, the smallest first.
template <int kColumns, int kPieces>
__device__ __forceinline__ void MultiplyPieces(TokenColumns x,
                                               const char* stage, int group,
                                               float (&sum)[kColumns / 2]) {
  uint32_t piece[kPieces][4];
#pragma unroll
  for (int p = 0; p < kPieces; ++p) {
    piece[p][0] = TakePiece(x.upper.x, x.upper.y);
    piece[p][1] = TakePiece(x.lower.x, x.lower.y);
    piece[p][2] = TakePiece(x.upper.z, x.upper.w);
    piece[p][3] = TakePiece(x.lower.z, x.lower.w);
  }
  const uint64_t weight = Advance(Describe(stage), group * kStep16<kInner>);
  BeginProducts();
#pragma unroll
  for (int both = kPieces - 1; both >= 0; --both) {
#pragma unroll
    for (int p = 0; p <= both; ++p) {
      Multiply<kInner>(sum, piece[p],
                       Advance(weight, (both - p) * kColumns * kChunk * 2),
                       /*add=*/1);
    }
  }
  EndProducts();
  WaitForProducts<0>();
}

#endif  // STRATA_SM90A

template <int kColumns, int kPieces, int kPerLane>
__global__ void __launch_bounds__(kGateThreads, 1)
    ProjectAndChooseKernel(const TierGateArgs a, const GateLayout l,
                           const ProjectionLayout p,
                           const __grid_constant__ CUtensorMap map) {
#if STRATA_SM90A
  extern __shared__ char memory[];
  char* const region = reinterpret_cast<char*>(
      (reinterpret_cast<uintptr_t>(memory) + kSwizzleBytes - 1) /
      kSwizzleBytes * kSwizzleBytes);
  auto* const full = reinterpret_cast<uint64_t*>(region + p.region_bytes);
  uint64_t* const empty = full + kMaxStages;
  auto* const expert_memory = reinterpret_cast<float*>(empty + kMaxStages);
  auto* const sums = reinterpret_cast<float*>(region);
  float* const group_sums = sums + kSumFloats<kColumns>;
  float* const rows = group_sums;  // When these are summed up.
  constexpr int kStageBytes = kPieces * kColumns * kChunk * 2;

  const int rank = static_cast<int>(ClusterRank());
  const int cluster = blockIdx.x / p.clusters;
  const int num_clusters = gridDim.x / p.clusters;
  const int group = threadIdx.x / kWarpgroup;
  const int lane = Lane();
  const int row = threadIdx.x % kWarpgroup / kWarp * 16 + lane / 4;
  const int64_t t = a.tokens.Get();
  const int mine = (p.chunks - rank + p.clusters - 1) / p.clusters;
  if (threadIdx.x == 0) {
    PrefetchMap(&map);
    for (int i = 0; i < p.stages; ++i) {
      InitBarrier(&full[i], 1);
      InitBarrier(&empty[i], kGateWarps);
    }
    FenceBarrierInit();
  }
  __syncthreads();

  const auto load = [&](int chunk, int stage) {
    ArriveExpecting(&full[stage], kStageBytes);
#pragma unroll
    for (int piece = 0; piece < kPieces; ++piece) {
      LoadBox(&map,
              region + stage * kStageBytes + piece * kColumns * kChunk * 2,
              &full[stage], (rank + chunk * p.clusters) * kChunk,
              piece * kColumns, 0);
    }
  };
  GateExperts experts;
  int stage = 0;
  uint32_t parity = 0;
  for (int64_t tile = cluster; tile * kProjectedTokens < t;
       tile += num_clusters) {
    // No stage is in use here; the next load goes to `stage`.
    if (threadIdx.x == 0) {
      for (int i = 0; i < min(p.stages, mine); ++i) {
        load(i, (stage + i) % p.stages);
      }
    }
    if (tile == cluster) experts = LoadExperts(a, l, expert_memory);
    const int64_t token = tile * kProjectedTokens + row;
    const bool has_upper = token < t, has_lower = token + 8 < t;
    const float* const from =
        a.x + token * a.d + rank * kChunk + group * 16 + lane % 4 * 4;
    const auto fetch = [&](int chunk) {
      const float4 none = {0, 0, 0, 0};
      const float* const at =
          from + static_cast<int64_t>(chunk) * p.clusters * kChunk;
      return TokenColumns{
          has_upper ? __ldg(reinterpret_cast<const float4*>(at)) : none,
          has_lower ? __ldg(reinterpret_cast<const float4*>(at + 8 * a.d))
                    : none};
    };
    TokenColumns x[kAhead];
#pragma unroll
    for (int i = 0; i < kAhead; ++i) {
      if (i < mine) x[i] = fetch(i);
    }
    float sum[kColumns / 2] = {};
    for (int begin = 0; begin < mine; begin += kAhead) {
#pragma unroll
      for (int i = 0; i < kAhead; ++i) {
        const int chunk = begin + i;
        if (chunk >= mine) break;
        const TokenColumns now = x[i];
        if (chunk + kAhead < mine) x[i] = fetch(chunk + kAhead);
        Wait(&full[stage], parity);
        MultiplyPieces<kColumns, kPieces>(now, region + stage * kStageBytes,
                                          group, sum);
        if (lane == 0) Arrive(&empty[stage]);
        if (threadIdx.x == 0 && chunk + p.stages < mine) {
          Wait(&empty[stage], parity);
          load(chunk + p.stages, stage);
        }
        __syncwarp();
        if (++stage == p.stages) {
          stage = 0;
          parity ^= 1;
        }
      }
    }
    __syncthreads();

    // Sums of this block's columns: of each warpgroup, then of all.
    float* const own = group_sums + group * kSumFloats<kColumns> +
                       row * kSumPitch<kColumns> + lane % 4 * 2;
#pragma unroll
    for (int j = 0; j < kColumns / 8; ++j) {
      *reinterpret_cast<float2*>(own + 8 * j) = {sum[4 * j], sum[4 * j + 1]};
      *reinterpret_cast<float2*>(own + 8 * kSumPitch<kColumns> + 8 * j) = {
          sum[4 * j + 2], sum[4 * j + 3]};
    }
    __syncthreads();
    for (int i = threadIdx.x; i < kProjectedTokens * kColumns;
         i += kGateThreads) {
      const int at = i / kColumns * kSumPitch<kColumns> + i % kColumns;
      float all = group_sums[at];
#pragma unroll
      for (int g = 1; g < kGroups; ++g) {
        all += group_sums[g * kSumFloats<kColumns> + at];
      }
      sums[at] = all;
    }
    SyncCluster();

    // This block's tokens, of all columns.
    const int first_query = a.projected - a.r;
    const int query_columns = (a.r + 3) / 4 * 4;
    const int columns = first_query + query_columns;
    for (int i = threadIdx.x; i < a.tile_tokens * columns; i += kGateThreads) {
      const int own_row = i / columns, c = i % columns;
      float all = 0;
      if (c < a.projected) {
        const float* const at =
            sums + (rank * a.tile_tokens + own_row) * kSumPitch<kColumns> + c;
        for (int q = 0; q < p.clusters; ++q) all += LoadFrom(at, q);
      }
      rows[c < first_query
               ? l.energy + own_row * GatePitch(a.energies) + c
               : l.query + own_row * GatePitch(a.r) + c - first_query] = all;
    }
    ClearCounts(a, l, rows);
    SyncCluster();  // No block reads another's sums any more.

    const int64_t own_tile = tile * p.clusters + rank;
    const int64_t first = own_tile * a.tile_tokens;
    if (first < t) {
      ChooseTile<kPerLane>(
          a, l, rows, experts, first,
          static_cast<int>(min(int64_t{a.tile_tokens}, t - first)));
      StoreCounts(a, l, rows, own_tile);
    }
    // The copy engine writes here next.
    FenceSharedStores();
    __syncthreads();
  }
#endif
}

// A thread an element of the weight; columns of 16 in the order of registers.
__global__ void __launch_bounds__(kBlock)
    SplitKernel(int64_t rows, int64_t padded_rows, int64_t d, int pieces,
                const float* wide, const __nv_bfloat16* narrow,
                __nv_bfloat16* split) {
  for (int64_t i = FirstElement(); i < padded_rows * d; i += ElementStride()) {
    const int place = static_cast<int>(i % 16), half = place / 8;
    const int64_t from = i - place + place % 8 / 2 * 4 + half * 2 + place % 2;
    float left = 0;
    if (i < rows * d) {
      left = wide != nullptr ? wide[from] : __bfloat162float(narrow[from]);
    }
    for (int piece = 0; piece < pieces; ++piece) {
      const __nv_bfloat16 rounded = __float2bfloat16_rn(left);
      split[piece * padded_rows * d + i] = rounded;
      left -= __bfloat162float(rounded);
    }
  }
}

// Calls fn(columns, pieces) as constants of the kernel for these shapes.
template <int n>
struct Constant {
  static constexpr int value = n;
};
template <typename Fn>
auto WithProjection(const TierGateArgs& a, GatePieces pieces, Fn fn) {
  const auto with_columns = [&](auto columns) {
    return pieces == GatePieces::kOne ? fn(columns, Constant<1>())
                                      : fn(columns, Constant<3>());
  };
  return a.projected <= 96 ? with_columns(Constant<96>())
                           : with_columns(Constant<128>());
}

}  // namespace

int64_t ProjectionPieceElements(const TierGateArgs& args, GatePieces pieces) {
  if (!IsHopper() || args.projected > 128 || args.d % kChunk != 0 ||
      args.experts > 4 * kWarp || !args.has_energies) {
    return 0;
  }
  return WithProjection(args, pieces, [&](auto columns, auto count) -> int64_t {
    constexpr int kColumns = decltype(columns)::value;
    const ProjectionLayout p = LayoutOf<kColumns>(
        args, GateLayout::Of(args, args.tile_tokens), decltype(count)::value);
    if (p.stages < kMinStages || p.shared_bytes > kMaxSharedBytes) return 0;
    return int64_t{decltype(count)::value} * kColumns * args.d;
  });
}

cudaError_t SplitProjection(const TierGateArgs& args, GatePieces pieces,
                            const void* weight, bool bf16, __nv_bfloat16* split,
                            cudaStream_t stream) {
  return WithProjection(args, pieces, [&](auto columns, auto count) {
    constexpr int kColumns = decltype(columns)::value;
    SplitKernel<<<BlocksFor(kColumns * args.d), kBlock, 0, stream>>>(
        args.projected, kColumns, args.d, decltype(count)::value,
        bf16 ? nullptr : static_cast<const float*>(weight),
        bf16 ? static_cast<const __nv_bfloat16*>(weight) : nullptr, split);
    return cudaGetLastError();
  });
}

cudaError_t ProjectAndChooseExperts(const TierGateArgs& args, GatePieces pieces,
                                    const __nv_bfloat16* split,
                                    cudaStream_t stream) {
  if (args.tokens.bound == 0) return cudaSuccess;
  const auto launch = [&](auto columns, auto count, auto per_lane) {
    constexpr int kColumns = decltype(columns)::value;
    constexpr int kPieces = decltype(count)::value;
    GateLayout layout = GateLayout::Of(args, args.tile_tokens);
    layout.experts_shared = true;
    const ProjectionLayout p = LayoutOf<kColumns>(args, layout, kPieces);
    BoxedTensor weight;
    weight.data = split;
    weight.columns = weight.pitch = args.d;
    weight.rows = kPieces * kColumns;
    weight.box_rows = kColumns;
    CUtensorMap map;
    if (const cudaError_t e = MakeTensorMap(weight, &map); e) return e;
    auto* const kernel =
        ProjectAndChooseKernel<kColumns, kPieces, decltype(per_lane)::value>;
    const cudaError_t allowed = cudaFuncSetAttribute(
        reinterpret_cast<const void*>(kernel),
        cudaFuncAttributeMaxDynamicSharedMemorySize, p.shared_bytes);
    if (allowed != cudaSuccess) return allowed;
    int device = 0, processors = 0;
    cudaGetDevice(&device);
    cudaDeviceGetAttribute(&processors, cudaDevAttrMultiProcessorCount, device);
    const int64_t clusters =
        std::clamp<int64_t>(CeilDiv(args.tokens.bound, kProjectedTokens), 1,
                            processors / p.clusters);
    return LaunchClusters<Begins::kBehind>(
        kernel, p.clusters, dim3(static_cast<unsigned>(clusters * p.clusters)),
        dim3(kGateThreads), p.shared_bytes, stream, args, layout, p, map);
  };
  return WithProjection(args, pieces, [&](auto columns, auto count) {
    return args.experts <= 2 * kWarp ? launch(columns, count, PerLane<2>())
                                     : launch(columns, count, PerLane<4>());
  });
}

}  // namespace strata::gpu
