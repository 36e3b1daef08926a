#include <cstdint>

#include "cuda/kernels/ahead.cuh"
#include "cuda/kernels/sm90.cuh"
#include "cuda/kernels/sm90_product.cuh"
#include "cuda/kernels/sm90_product_narrow.cuh"
#include "cuda/kernels/sm90_send.cuh"
#include "cuda/kernels/tensor_map.h"
#include "cuda/ops/batch/gate_routes.h"
#include "cuda/ops/batch/route_plan.cuh"
#include "cuda/ops/bf16/eight.cuh"
#include "cuda/ops/decode/choose_experts.cuh"
#include "cuda/ops/device.cuh"
#include "cuda/ops/vector16.cuh"
#include "cuda/runtime/kernel.h"
#include "cuda_bf16.h"

namespace strata::gpu {
namespace {

constexpr int kCluster = 8;
constexpr int kThreads = 512;
constexpr int kWarps = kThreads / kWarp;
constexpr int kTile = 64;  // Experts a warpgroup multiplies.
constexpr int kTileBytes = kTile * kSwizzleColumns * 2;
constexpr int kRowPairs = kTile / 2;
constexpr int kMaxSharedBytes = 200 << 10;
constexpr int kEight = 8;

static_assert(kMaxOffered <= kThreads / kWarpgroup * kTile,
              "a warpgroup a tile of experts");

struct Args {
  GateRoutesArgs of;
  int chunks = 0;  // Of 64 columns.
  int share = 0;   // That a block has at most.
  int tiles = 0;   // Of 64 experts.
};

// What a block has in shared memory, behind each other from a multiple of
// kSwizzleBytes on.
struct Sizes {
  int gate, rows, sums, gain;
  __host__ __device__ int All() const { return gate + rows + sums + gain; }
};
__host__ __device__ __forceinline__ Sizes SizesOf(int tokens, int share,
                                                  int tiles) {
  Sizes s;
  s.gate = share * tiles * kTileBytes;
  s.rows = share * tokens * kSwizzleColumns * 2;
  s.sums = tokens / 2 * tiles * kRowPairs * int{sizeof(float4)};
  s.gain = share * kSwizzleColumns * int{sizeof(float)};
  return s;
}

#if STRATA_SM90A

// Tokens by whom: pairs of them go to the blocks in turn. A block's i-th token
// is of its pair i / 2.
__device__ __forceinline__ int TokenOf(int i, int rank) {
  return 2 * (i / 2 * kCluster + rank) + i % 2;
}

#endif  // STRATA_SM90A

template <int kTokens>
__global__ void __launch_bounds__(kThreads)
    GateRoutesKernel(const Args args,
                     const __grid_constant__ CUtensorMap gate_map) {
#if STRATA_SM90A
  constexpr int kEach = kTokens / kWarps;        // Rows of a warp.
  constexpr int kChoosers = kTokens / kCluster;  // Warps, a token each.
  constexpr int kPairs = kChoosers / 2;
  extern __shared__ char memory[];
  __shared__ RoutePlan plan;  // Of the first block.
  __shared__ float bias[kMaxOffered];
  __shared__ float squares[kCluster][kTokens];  // Of each block's columns.
  __shared__ uint64_t came, joined, chosen;
  const GateRoutesArgs& a = args.of;
  const ChooseExpertsArgs& choice = a.choice;
  const Sizes sizes = SizesOf(kTokens, args.share, args.tiles);
  char* const gate = reinterpret_cast<char*>(
      (reinterpret_cast<uintptr_t>(memory) + kSwizzleBytes - 1) /
      kSwizzleBytes * kSwizzleBytes);
  char* const rows = gate + sizes.gate;
  auto* const sums = reinterpret_cast<float4*>(rows + sizes.rows);
  auto* const gain = reinterpret_cast<float*>(rows + sizes.rows + sizes.sums);

  const int thread = static_cast<int>(threadIdx.x), lane = Lane();
  const int warp = Uniform(thread / kWarp);
  const int rank = static_cast<int>(ClusterRank());
  const int first = args.chunks * rank / kCluster;
  const int mine = args.chunks * (rank + 1) / kCluster - first;
  const int first_column = first * kSwizzleColumns;
  const int columns =
      min(mine * kSwizzleColumns, static_cast<int>(a.d) - first_column);
  if (thread == 0) {
    InitBarrier(&came, 1);
    InitBarrier(&joined, 1);
    InitBarrier(&chosen, 1);
    FenceBarrierInit();
    const int bytes = args.tiles * kTileBytes;
    ArriveExpecting(&came, mine * bytes);
    for (int c = 0; c < mine; ++c) {
      LoadBox(&gate_map, gate + c * bytes, &came,
              first_column + c * kSwizzleColumns, 0, 0);
    }
    ArriveExpecting(&joined, sizes.sums + int{sizeof(squares)});
  }
  for (int c = thread; c < columns; c += kThreads) {
    gain[c] = __ldg(a.gain + first_column + c);
  }
  if (choice.bias != nullptr && thread < choice.num_experts) {
    bias[thread] = __ldg(choice.bias + thread);
  }
  plan.Clear(choice.num_experts);
  __syncthreads();
  ArriveAtCluster();
  LetLaterBegin();
  WaitForEarlier();

  // Rows as far as the bound, of which some may be none; four chunks at a time.
  const int tokens = static_cast<int>(choice.tokens.Get());
  const auto bound = static_cast<int>(choice.tokens.bound);
  float square[kEach] = {};
#pragma unroll 1
  for (int c = lane * kEight; c < mine * kSwizzleColumns; c += kWarp * kEight) {
    const bool there = c < columns;
    float v[kEach][kEight];
#pragma unroll
    for (int j = 0; j < kEach; ++j) {
      const int token = warp + j * kWarps;
#pragma unroll
      for (float& x : v[j]) x = 0;
      if (there && token < bound) {
        Load8(a.h + token * a.d + first_column + c, v[j]);
      }
    }
    float g[kEight] = {};
    if (there) Load8(gain + c, g);
    char* const chunk =
        rows + c / kSwizzleColumns * kTokens * kSwizzleColumns * 2;
#pragma unroll
    for (int j = 0; j < kEach; ++j) {
      const int token = warp + j * kWarps;
#pragma unroll
      for (int i = 0; i < kEight; ++i) {
        square[j] = fmaf(v[j][i], v[j][i], square[j]);
        v[j][i] *= g[i];
      }
      // As the copy engine swizzles a tile (sm90.cuh).
      const int piece = c % kSwizzleColumns / kEight ^ token % 8;
      Store8(v[j], reinterpret_cast<__nv_bfloat16*>(
                       chunk + token * kSwizzleColumns * 2 + piece * 16));
    }
  }
  WaitForCluster();  // The others have begun.
#pragma unroll
  for (int j = 0; j < kEach; ++j) {
    const float sum = WarpSum(square[j]);
    if (lane < kCluster) {
      StoreOneTo(&squares[rank][warp + j * kWarps], &joined,
                 static_cast<uint32_t>(lane), sum);
    }
  }
  FenceSharedStores();
  __syncthreads();

  if (const int tile = warp / (kWarpgroup / kWarp); tile < args.tiles) {
    float sum[kTokens / 2];
#pragma unroll
    for (float& x : sum) x = 0;
    Wait(&came, 0);
    for (int c = 0; c < mine; ++c) {
      MultiplyTiles(sum, gate + (c * args.tiles + tile) * kTileBytes,
                    rows + c * kTokens * kSwizzleColumns * 2);
    }
    WaitForProducts<0>();
    // Sums of a pair of tokens by two experts, to who has the pair.
    const int row_pair = tile * kRowPairs + warp % 4 * 8 + lane / 4;
#pragma unroll
    for (int g = 0; g < kTokens / 8; ++g) {
      const int pair = 4 * g + lane % 4;
      StoreFourTo(
          sums + (rank * kPairs + pair / kCluster) * args.tiles * kRowPairs +
              row_pair,
          &joined, static_cast<uint32_t>(pair % kCluster),
          {sum[4 * g], sum[4 * g + 1], sum[4 * g + 2], sum[4 * g + 3]});
    }
  }

  Wait(&joined, 0);
  const auto scale_of = [&](int token) {
    float sum = 0;
#pragma unroll
    for (int r = 0; r < kCluster; ++r) sum += squares[r][token];
    return rsqrtf(sum / static_cast<float>(a.d) + a.eps);
  };
  if (warp < kChoosers) {
    const int token = TokenOf(warp, rank);
    if (token < tokens) {
      const float scale = scale_of(token);
      const auto logit_of = [&](int e) {
        const auto* const at = reinterpret_cast<const float*>(
            sums + warp / 2 * args.tiles * kRowPairs + e / 16 * 8 + e % 8);
        const int which = e / 8 % 2 * 2 + token % 2;
        float sum = 0;
#pragma unroll
        for (int r = 0; r < kCluster; ++r) {
          sum += at[r * kPairs * args.tiles * kRowPairs * 4 + which];
        }
        return sum * scale;
      };
      const auto bias_of = [&](int e) { return bias[e]; };
      const ExpertChoice of =
          choice.num_experts <= kMaxOffered / 2
              ? ChooseOf<kMaxOffered / kWarp / 2>(choice, logit_of, bias_of)
              : ChooseOf<kMaxOffered / kWarp>(choice, logit_of, bias_of);
      if (lane < choice.k) {
        const int slot = token * choice.k + lane;
        StoreOneTo(&plan.expert[slot], &chosen, 0, of.expert);
        choice.weight[slot] = of.weight;
        if (choice.expert != nullptr) choice.expert[slot] = of.expert;
      }
    }
  } else {
    // The others store rows. What they read again is near.
    constexpr int kWriters = kWarps - kChoosers;
#pragma unroll 2
    for (int token = warp - kChoosers; token < tokens; token += kWriters) {
      const float scale = scale_of(token);
      for (int c = lane * kEight; c < columns; c += kWarp * kEight) {
        const int64_t at = token * a.d + first_column + c;
        float v[kEight], g[kEight];
        Load8(a.h + at, v);
        Load8(gain + c, g);
#pragma unroll
        for (int i = 0; i < kEight; ++i) v[i] *= scale * g[i];
        Store8(v, a.x + at);
      }
    }
  }
  if (rank != 0) return;

  const int slots = tokens * choice.k;
  if (thread == 0) ArriveExpecting(&chosen, slots * int{sizeof(int32_t)});
  Wait(&chosen, 0);
#pragma unroll 1
  for (int s = thread; s < slots; s += kThreads) {
    plan.Note(s / choice.k, plan.expert[s]);
  }
  __syncthreads();
  plan.StartRows(choice.num_experts);
  __syncthreads();
#pragma unroll 1
  for (int s = thread; s < slots; s += kThreads) {
    const int t = s / choice.k, row = plan.RowOf(t, plan.expert[s]);
    a.row_token[row] = t;
    a.slot_row[s] = row;
  }
  plan.StoreOffsets(choice, slots);
#endif
}

template <int kTokens>
cudaError_t Launch(const Args& args, const CUtensorMap& gate,
                   cudaStream_t stream) {
  auto* const kernel = GateRoutesKernel<kTokens>;
  const int shared =
      kSwizzleBytes + SizesOf(kTokens, args.share, args.tiles).All();
  const cudaError_t allowed = cudaFuncSetAttribute(
      reinterpret_cast<const void*>(kernel),
      cudaFuncAttributeMaxDynamicSharedMemorySize, kMaxSharedBytes);
  if (allowed != cudaSuccess) return allowed;
  return LaunchClustersAhead(kernel, kCluster, dim3(kCluster), dim3(kThreads),
                             static_cast<size_t>(shared), stream, args, gate);
}

Args ShapeOf(const GateRoutesArgs& of) {
  Args args;
  args.of = of;
  args.chunks = static_cast<int>(CeilDiv(of.d, kSwizzleColumns));
  args.share = static_cast<int>(CeilDiv(args.chunks, kCluster));
  args.tiles = static_cast<int>(CeilDiv(of.choice.num_experts, kTile));
  return args;
}

}  // namespace

bool HasGateRoutes(const GateRoutesArgs& args) {
  constexpr int64_t kMaxColumns = 1 << 16;
  const ChooseExpertsArgs& a = args.choice;
  if (a.tokens.bound < 1 || a.tokens.bound > kMaxRoutedTokens ||
      a.num_experts < 1 || a.num_experts > kMaxOffered || a.k < 1 ||
      a.k > kMaxChosen || a.k > a.num_experts || args.d < 8 ||
      args.d % 8 != 0 || args.d > kMaxColumns || !IsHopper()) {
    return false;
  }
  const Args shape = ShapeOf(args);
  return kSwizzleBytes + SizesOf(NarrowColumns(a.tokens.bound), shape.share,
                                 shape.tiles)
                             .All() <=
             kMaxSharedBytes &&
         IsAligned(args.h) && IsAligned(args.gate) && IsAligned(args.x);
}

cudaError_t GateRoutes(const GateRoutesArgs& args, cudaStream_t stream) {
  if (!HasGateRoutes(args)) return cudaErrorInvalidValue;
  const Args shape = ShapeOf(args);
  BoxedTensor box;
  box.data = args.gate;
  box.columns = box.pitch = args.d;
  box.rows = args.choice.num_experts;
  box.box_rows = shape.tiles * kTile;
  CUtensorMap gate = {};
  if (const cudaError_t e = MakeTensorMap(box, &gate); e) return e;
  switch (NarrowColumns(args.choice.tokens.bound)) {
    case 16:
      return Launch<16>(shape, gate, stream);
    case 32:
      return Launch<32>(shape, gate, stream);
    default:
      return Launch<64>(shape, gate, stream);
  }
}

}  // namespace strata::gpu
