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
      static_cast<int>(sizeof(float)) * kSumFloats<kColumns> * kGroups;
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

// The same value, of which the compiler knows nothing.
template <typename T>
__device__ __forceinline__ T* HereAndNow(T* p) {
  asm volatile("" : "+l"(p));
  return p;
}
__device__ __forceinline__ int HereAndNow(int i) {
  asm volatile("" : "+r"(i));
  return i;
}

__device__ __forceinline__ float4 Plus(float4 a, float4 b) {
  return {a.x + b.x, a.y + b.y, a.z + b.z, a.w + b.w};
}

// A token's sums over the cluster: four columns a lane.
template <int kColumns>
__device__ __forceinline__ float4 JoinSums(const float* sums, int clusters) {
  const int c = Lane() * 4;
  float4 all = {0, 0, 0, 0};
  if (c < kColumns) {
#pragma unroll
    for (int q = 0; q < kProjectedTokens / 8; ++q) {
      if (q < clusters) all = Plus(all, LoadFourFrom(sums + c, q));
    }
  }
  return all;
}

// Them to row i: its signature and its query.
__device__ __forceinline__ void StoreRow(const TierGateArgs& a,
                                         const GateLayout& l, float4 all, int i,
                                         float* rows) {
  const int first_query = a.projected - a.r, c = Lane() * 4;
  float* const query = rows + l.query + i * GatePitch(a.r);
  const float part[4] = {all.x, all.y, all.z, all.w};
#pragma unroll
  for (int j = 0; j < 4; ++j) {
    if (c + j >= first_query && c + j < a.projected) {
      query[c + j - first_query] = part[j];
    }
  }
  if (Lane() < GatePadded(a.r) - a.r) query[a.r + Lane()] = 0;
  if (a.energies == a.groups && a.groups % 4 == 0) {
    // Slices of one column: in registers.
    const float of_lane = fmaf(
        all.x, all.x, fmaf(all.y, all.y, fmaf(all.z, all.z, all.w * all.w)));
    const float sum = WarpSum(c < a.groups ? of_lane : 0.f);
    const float inverse = sum > 0 ? static_cast<float>(a.groups) / sum : 0.f;
    float s[4];
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      s[j] = sum > 0 && c < a.groups
                 ? sqrtf(2.f) * (sqrtf(part[j] * part[j] * inverse) - 1.f)
                 : 0.f;
    }
    if (c < GatePadded(a.groups)) {
      *reinterpret_cast<float4*>(rows + l.signature + i * GatePitch(a.groups) +
                                 c) = {s[0], s[1], s[2], s[3]};
    }
    return;
  }
  float* const energy = rows + l.energy + i * GatePitch(a.energies);
#pragma unroll
  for (int j = 0; j < 4; ++j) {
    if (c + j < first_query) energy[c + j] = part[j];
  }
  __syncwarp();
  SignRow(energy, a.groups, a.energies / a.groups,
          rows + l.signature + i * GatePitch(a.groups));
}

#endif  // STRATA_SM90A

template <int kColumns, int kPieces, int kLanes, int kPerLane>
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
  // Behind the first warpgroup's sums, which become the block's.
  float* const all_rows = sums + kSumFloats<kColumns>;
  constexpr int kStageBytes = kPieces * kColumns * kChunk * 2;

  const int rank = static_cast<int>(ClusterRank());
  const int cluster = blockIdx.x / p.clusters;
  const int num_clusters = gridDim.x / p.clusters;
  const int group = threadIdx.x / kWarpgroup;
  const int lane = Lane();
  const int row = threadIdx.x % kWarpgroup / kWarp * 16 + lane / 4;
  const int mine = (p.chunks - rank + p.clusters - 1) / p.clusters;
  if (threadIdx.x < p.stages) {
    InitBarrier(&full[threadIdx.x], 1);
    InitBarrier(&empty[threadIdx.x], kGateWarps);
    FenceBarrierInit();
  }
  if (threadIdx.x == kWarp) PrefetchMap(&map);
  __syncthreads();
  WaitForEarlier();
  LetLaterBegin();
  const int64_t t = a.tokens.Get();

  const auto load = [&](int chunk, int to) {
    ArriveExpecting(&full[to], kStageBytes);
#pragma unroll
    for (int piece = 0; piece < kPieces; ++piece) {
      LoadBox(&map, region + to * kStageBytes + piece * kColumns * kChunk * 2,
              &full[to], (rank + chunk * p.clusters) * kChunk, piece * kColumns,
              0);
    }
  };
  int stage = 0;
  uint32_t parity = 0;
  TokenColumns x[kAhead];
  const auto fetch = [&](int64_t tile, int chunk) {
    const int64_t token = tile * kProjectedTokens + row;
    const float4 none = {0, 0, 0, 0};
    const float* const at =
        a.x + token * a.d +
        (rank + static_cast<int64_t>(chunk) * p.clusters) * kChunk +
        group * 16 + lane % 4 * 4;
    return TokenColumns{
        token < t ? *reinterpret_cast<const float4*>(at) : none,
        token + 8 < t ? *reinterpret_cast<const float4*>(at + 8 * a.d) : none};
  };
  // What the products of a tile begin with is on its way while others are done.
  const auto begin_tile = [&](int64_t tile) {
    if (tile * kProjectedTokens >= t) return;
    // No stage is in use here; the next load goes to `stage`.
    if (threadIdx.x == 0) {
#pragma unroll 1
      for (int i = 0; i < min(p.stages, mine); ++i) {
        load(i, (stage + i) % p.stages);
      }
    }
#pragma unroll
    for (int i = 0; i < kAhead; ++i) {
      if (i < mine) x[i] = fetch(tile, i);
    }
  };
  begin_tile(cluster);
  LoadExperts(a, l, expert_memory);
  for (int64_t tile = cluster; tile * kProjectedTokens < t;
       tile += num_clusters) {
    float sum[kColumns / 2] = {};
#pragma unroll 1
    for (int begin = 0; begin < mine; begin += kAhead) {
#pragma unroll
      for (int i = 0; i < kAhead; ++i) {
        const int chunk = begin + i;
        if (chunk >= mine) break;
        const TokenColumns now = x[i];
        if (chunk + kAhead < mine) x[i] = fetch(tile, chunk + kAhead);
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
    float* const own = sums + group * kSumFloats<kColumns> +
                       row * kSumPitch<kColumns> + lane % 4 * 2;
#pragma unroll
    for (int j = 0; j < kColumns / 8; ++j) {
      *reinterpret_cast<float2*>(own + 8 * j) = {sum[4 * j], sum[4 * j + 1]};
      *reinterpret_cast<float2*>(own + 8 * kSumPitch<kColumns> + 8 * j) = {
          sum[4 * j + 2], sum[4 * j + 3]};
    }
    __syncthreads();
    const int rows_here = static_cast<int>(
        min(int64_t{kProjectedTokens}, t - tile * kProjectedTokens));
    constexpr int kVectors = kColumns / 4;
#pragma unroll
    for (int i = threadIdx.x; i < rows_here * kVectors; i += kGateThreads) {
      float* const at =
          sums + i / kVectors * kSumPitch<kColumns> + i % kVectors * 4;
      float4 all = *reinterpret_cast<const float4*>(at);
#pragma unroll
      for (int g = 1; g < kGroups; ++g) {
        all = Plus(all, *reinterpret_cast<const float4*>(
                            at + g * kSumFloats<kColumns>));
      }
      *reinterpret_cast<float4*>(at) = all;
    }
    SyncCluster();

    // This block's tokens, of all columns: half a warp a token.
    const int64_t own_tile = tile * p.clusters + rank;
    const int64_t first = own_tile * a.tile_tokens;
    const int n = static_cast<int>(
        min(int64_t{a.tile_tokens}, max(t - first, int64_t{0})));
    // Addresses are made from here on: made before the loop over tiles, they
    // would lie in registers that the products need.
    float* const rows = HereAndNow(all_rows);
    const float* const experts = HereAndNow(expert_memory);
    const int warp = HereAndNow(static_cast<int>(threadIdx.x)) / kWarp;
    // A warp's tokens wait for the other blocks together.
    constexpr int kTokens = 2;
    float4 joined[kTokens];
#pragma unroll
    for (int j = 0; j < kTokens; ++j) {
      const int i = warp + j * kGateWarps;
      if (i >= n) continue;
      joined[j] = JoinSums<kColumns>(
          sums + (rank * a.tile_tokens + i) * kSumPitch<kColumns>, p.clusters);
    }
#pragma unroll
    for (int j = 0; j < kTokens; ++j) {
      const int i = warp + j * kGateWarps;
      if (i < n) StoreRow(a, l, joined[j], i, rows);
    }
    ClearCounts(a, l, rows);
    ArriveAtCluster();
    if (n > 0) {
      ChooseTile<kLanes, kPerLane, kPieces, true>(a, l, rows, experts, first,
                                                  n);
      StoreCounts(a, l, rows, own_tile);
    }
    // The copy engine writes here next, where other blocks have read.
    FenceSharedStores();
    WaitForCluster();
    __syncthreads();
    begin_tile(tile + num_clusters);
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
  const auto launch = [&](auto columns, auto count, auto lanes, auto per_lane) {
    constexpr int kColumns = decltype(columns)::value;
    constexpr int kPieces = decltype(count)::value;
    const GateLayout layout = GateLayout::Of(args, args.tile_tokens);
    const ProjectionLayout p = LayoutOf<kColumns>(args, layout, kPieces);
    BoxedTensor weight;
    weight.data = split;
    weight.columns = weight.pitch = args.d;
    weight.rows = kPieces * kColumns;
    weight.box_rows = kColumns;
    CUtensorMap map;
    if (const cudaError_t e = MakeTensorMap(weight, &map); e) return e;
    auto* const kernel =
        ProjectAndChooseKernel<kColumns, kPieces, decltype(lanes)::value,
                               decltype(per_lane)::value>;
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
    return LaunchClustersAhead(
        kernel, p.clusters, dim3(static_cast<unsigned>(clusters * p.clusters)),
        dim3(kGateThreads), p.shared_bytes, stream, args, layout, p, map);
  };
  return WithProjection(args, pieces, [&](auto columns, auto count) {
    return WithLanes(args.experts, [&](auto lanes, auto per_lane) {
      // More experts than ProjectionPieceElements() has a kernel for.
      if constexpr (decltype(per_lane)::value > 4) {
        return cudaErrorInvalidValue;
      } else {
        return launch(columns, count, lanes, per_lane);
      }
    });
  });
}

}  // namespace strata::gpu
