#include <cstdint>

#include "cuda/ops/device.cuh"
#include "cuda/ops/route/tier_route.h"
#include "cuda/ops/route/tier_route_args.cuh"
#include "cuda/ops/route/tier_route_lanes.cuh"
#include "cuda/ops/tier_gate.cuh"
#include "cuda/ops/tier_gate.h"

// Two launches: a block chooses for a tile of tokens and sums up what its
// losses are made of, then one block adds up all tiles. Bound as ChooseTile().

namespace strata::gpu {
namespace {

// What a tile says of its losses, and the results.
struct RouteSums {
  uint8_t* left = nullptr;  // [t, E]
  float* share = nullptr;   // [tiles, E], sums of a tile's shares
  float2* loss = nullptr;   // [tiles], of distillation and cost
  float* load = nullptr;    // [E], and then scalars
  float *distill = nullptr, *cost = nullptr, *balance = nullptr;
};

// Behind the rows and experts of a block: shares of a tile's tokens, and what
// each adds to the losses.
int RouteFloats(const TierGateArgs& a, int rows) {
  return rows * (GatePitch(a.experts) + 2);
}

template <int kPieces>
__global__ void __launch_bounds__(kGateThreads, 1)
    RouteKernel(const TierGateArgs a, const GateLayout l, const RouteSums s) {
  extern __shared__ float memory[];
  const int64_t t = a.tokens.Get();
  const int tall = GatePitch(a.experts);
  float* const expert_memory = memory + l.row_floats;
  float* const shares = expert_memory + l.expert_floats;
  auto* const losses = reinterpret_cast<float2*>(shares + l.rows * tall);
  LoadExperts(a, l, expert_memory);
  for (int64_t tile = blockIdx.x; tile * a.tile_tokens < t; tile += gridDim.x) {
    const int64_t begin = tile * a.tile_tokens;
    const int64_t end = min(t, begin + a.tile_tokens);
    ClearCounts(a, l, memory);
    for (int64_t first = begin; first < end; first += l.rows) {
      const int n = static_cast<int>(min(int64_t{l.rows}, end - first));
      LoadTokens(a, l, memory, first, n, n);
      const auto sum_up = [&](int i, bool there, uint32_t left,
                              const float* product, const float* coarse) {
        const int lane = Lane() % kRouteLanes;
        const Affinities of = AffinitiesOf(a, product, coarse);
        float2 loss = {0, 0};
#pragma unroll
        for (int j = 0; j < kRoutePerLane; ++j) {
          const int e = lane * kRoutePerLane + j;
          const bool is_left = left >> j & 1;
          if (is_left) {
            const float c = of.coarse[j];
            loss.x += fmaxf(c, 0.f) - c * of.p[j] + log1pf(expf(-fabsf(c)));
            loss.y += of.p[j];
          }
          if (!there || e >= a.experts) continue;
          shares[i * tall + e] = of.share[j];
          s.left[(first + i) * a.experts + e] = is_left;
        }
        loss.x = LanesSum<kRouteLanes>(loss.x);
        loss.y = LanesSum<kRouteLanes>(loss.y);
        if (there && lane == 0) losses[i] = loss;
      };
      ChooseTile<kRouteLanes, kRoutePerLane, kPieces, /*kShared=*/true>(
          a, l, memory, expert_memory, first, n, sum_up);
      // Others write these again only behind the next tile's first barrier.
      const int e = threadIdx.x;
      if (e < a.experts) {
        float sum = first > begin ? s.share[tile * a.experts + e] : 0.f;
        for (int i = 0; i < n; ++i) sum += shares[i * tall + e];
        s.share[tile * a.experts + e] = sum;
      } else if (e == kGateThreads - 1) {
        float2 sum = first > begin ? s.loss[tile] : float2{0, 0};
        for (int i = 0; i < n; ++i) sum.x += losses[i].x, sum.y += losses[i].y;
        s.loss[tile] = sum;
      }
    }
    StoreCounts(a, l, memory, tile);
    __syncthreads();
  }
}

constexpr int kSumThreads = 1024;

__global__ void __launch_bounds__(kSumThreads)
    SumTilesKernel(const TierGateArgs a, const RouteSums s) {
  __shared__ int count[kMaxGateExperts];
  __shared__ double mean[kMaxGateExperts];
  const int64_t t = a.tokens.Get();
  const int64_t tiles = (t + a.tile_tokens - 1) / a.tile_tokens;
  const double tokens = static_cast<double>(max(t, int64_t{1}));
  const int warp = threadIdx.x / kWarp;
  for (int e = warp; e < a.experts; e += kSumThreads / kWarp) {
    int choices = 0;
    double sum = 0;
    for (int64_t tile = Lane(); tile < tiles; tile += kWarp) {
      choices += a.count[tile * a.experts + e];
      sum += s.share[tile * a.experts + e];
    }
    choices = WarpSum(choices);
    sum = WarpSum(sum);
    if (Lane() == 0) count[e] = choices, mean[e] = sum / tokens;
  }
  __syncthreads();
  if (warp == 0) {
    int choices = 0;
    for (int e = Lane(); e < a.experts; e += kWarp) choices += count[e];
    const double share =
        static_cast<double>(a.experts) / max(1, WarpSum(choices));
    double balance = 0;
    for (int e = Lane(); e < a.experts; e += kWarp) {
      const double load = share * count[e];
      s.load[e] = static_cast<float>(load);
      balance += load * mean[e];
    }
    balance = WarpSum(balance);
    if (Lane() == 0) *s.balance = static_cast<float>(balance);
  } else if (warp == 1) {
    double distill = 0, cost = 0;
    for (int64_t tile = Lane(); tile < tiles; tile += kWarp) {
      distill += s.loss[tile].x;
      cost += s.loss[tile].y;
    }
    distill = WarpSum(distill);
    cost = WarpSum(cost);
    if (Lane() != 0) return;
    *s.distill = static_cast<float>(distill / (tokens * a.keep));
    *s.cost = static_cast<float>(cost / (tokens * a.keep));
  }
}

}  // namespace

cudaError_t RunTierRoute(const KernelContext& ctx) {
  TierGateArgs a = ReadRouteArgs(ctx, kRouteToken, kRouteKey, kRouteExperts);
  if (!RouteFits(a)) return ctx.Refuse(kRouteTooWide);
  a.bias = ctx.in(kRouteBias).as<float>();
  a.tau = ctx.Double("tau");
  a.k_min = static_cast<int>(ctx.Int("k_min"));
  a.tile_tokens = GateTileTokens(a.tokens.bound);
  a.expert = ctx.out(kRouteExpert).as<int32_t>();
  a.weight = ctx.out(kRouteWeight).as<float>();
  const int64_t tiles = GateTiles(a.tokens.bound);
  a.count = ctx.Keep<uint16_t>(kSlotCounts, tiles * a.experts);
  a.stay = ctx.Take<uint8_t>(a.tokens.bound);
  RouteSums s;
  s.left = ctx.out(kRouteLeft).as<uint8_t>();
  s.share = ctx.Take<float>(tiles * a.experts);
  s.loss = ctx.Take<float2>(tiles);
  s.load = ctx.out(kRouteLoad).as<float>();
  s.distill = ctx.out(kRouteDistill).as<float>();
  s.cost = ctx.out(kRouteCost).as<float>();
  s.balance = ctx.out(kRouteBalance).as<float>();
  if (a.count == nullptr || a.stay == nullptr || s.share == nullptr ||
      s.loss == nullptr) {
    return cudaErrorMemoryAllocation;
  }
  int rows = a.tile_tokens;
  GateLayout layout = GateLayout::Of(a, rows);
  const auto bytes = [&] {
    return static_cast<int>(sizeof(float)) *
           (layout.row_floats + layout.expert_floats + RouteFloats(a, rows));
  };
  while (bytes() > kMaxRouteBytes && rows > 1) {
    layout = GateLayout::Of(a, rows /= 2);
  }
  auto* const kernel = PiecesOf(ctx.precision) == GatePieces::kOne
                           ? RouteKernel<static_cast<int>(GatePieces::kOne)>
                           : RouteKernel<static_cast<int>(GatePieces::kThree)>;
  if (const cudaError_t e = AllowRouteBytes(kernel); e) return e;
  const auto blocks =
      static_cast<unsigned>(std::min(kMaxBlocks, std::max<int64_t>(1, tiles)));
  kernel<<<blocks, kGateThreads, bytes(), ctx.stream>>>(a, layout, s);
  SumTilesKernel<<<1, kSumThreads, 0, ctx.stream>>>(a, s);
  return cudaGetLastError();
}

void RegisterTierRouteKernels(KernelRegistry& kernels) {
  kernels.Register("TierRoute", RunTierRoute);
  kernels.Register("TierRouteGrad", RunTierRouteGrad);
}

}  // namespace strata::gpu
