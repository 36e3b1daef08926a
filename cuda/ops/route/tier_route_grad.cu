#include <algorithm>
#include <cstdint>

#include "cuda/ops/device.cuh"
#include "cuda/ops/energy.cuh"
#include "cuda/ops/route/tier_route.h"
#include "cuda/ops/route/tier_route_args.cuh"
#include "cuda/ops/route/tier_route_lanes.cuh"
#include "cuda/ops/tier_gate.cuh"
#include "cuda/ops/tier_gate.h"

// A block takes tiles of tokens, makes anew what the gate made of them, and
// goes back:
//
//   signature, query, coarse, attention, refined     as in tier_gate.cuh
//     | half a warp a token: weights', losses' and the sigmoid's gradients
//   dscore, dcoarse [tokens, E]
//     | tensor cores     drefined = dscore experts     dsign = dcoarse key
//     | tensor cores     dattention = drefined value^T
//     | half a warp a token: the softmax's gradient, in place
//     | tensor cores     dquery = drefined + dattention expert_key
//     | tensor cores     of experts: sums over the tile, added to the block's
//   dtoken               [tokens, energies + r]
//
// A second launch adds up the blocks' sums, in their order. Bound by
// instructions, as the gate is.

namespace strata::gpu {
namespace {

enum RouteGradInput {
  kGradWeight,
  kGradDistill,
  kGradCost,
  kGradBalance,
  kGradToken,
  kGradKey,
  kGradExperts,  // And two more.
  kGradExpert = kGradExperts + 3,
  kGradLeft,
  kGradLoad,
};

// Blocks, whose sums are added up: as many as fit on an H100 at once.
constexpr int kRouteBlocks = 132;

struct RouteGrads {
  const float *weight = nullptr, *distill = nullptr, *cost = nullptr,
              *balance = nullptr;  // Null: zeros.
  const int32_t* expert = nullptr;
  const uint8_t* left = nullptr;
  const float* load = nullptr;
  float* token = nullptr;  // [t, energies + r]
  // [blocks] of [E, padded groups] and three times [E, padded r].
  float* sums = nullptr;
  int64_t block_floats = 0;
  float* result[4] = {};  // Of key, experts, expert key, expert value.
};

// Where rows of tokens lie, and experts with zeros up to whole tiles.
struct RouteGradLayout {
  int rows = 0, floats = 0;
  int energy = 0, query = 0, signature = 0, coarse = 0, attention = 0;
  int refined = 0, dscore = 0, dcoarse = 0, dattention = 0, drefined = 0;
  int dsign = 0, dquery = 0;
  int key = 0, embedding = 0, expert_key = 0, expert_value = 0;

  static RouteGradLayout Of(const TierGateArgs& a, int rows) {
    RouteGradLayout l;
    l.rows = rows;
    const auto take = [&l](int n, int columns) {
      const int first = l.floats;
      l.floats += n * GatePitch(columns);
      return first;
    };
    l.energy = take(rows, a.energies);
    l.query = take(rows, a.r);
    l.signature = take(rows, a.groups);
    l.coarse = take(rows, a.experts);
    l.attention = take(rows, a.experts);
    l.refined = take(rows, a.r);
    l.dscore = take(rows, a.experts);
    l.dcoarse = take(rows, a.experts);
    l.dattention = take(rows, a.experts);
    l.drefined = take(rows, a.r);
    l.dsign = take(rows, a.groups);
    l.dquery = take(rows, a.r);
    const int padded = GatePadded(a.experts);
    l.key = take(padded, a.groups);
    l.embedding = take(padded, a.r);
    l.expert_key = take(padded, a.r);
    l.expert_value = take(padded, a.r);
    return l;
  }
  int bytes() const { return floats * static_cast<int>(sizeof(float)); }
};

// Zeros behind n rows up to whole tiles.
__device__ __forceinline__ void ClearBeyond(int n, int columns, float* to) {
  const int pitch = GatePitch(columns);
  for (int i = n * pitch + threadIdx.x; i < GatePadded(n) * pitch;
       i += kGateThreads) {
    to[i] = 0;
  }
}

__device__ __forceinline__ void LoadPadded(const float* from, int n,
                                           int columns, float* to) {
  LoadGateRows(from, n, columns, to);
  ClearBeyond(n, columns, to);
}

// Stores a lane's part of a row, and zeros behind it up to whole tiles.
__device__ __forceinline__ void StorePart(const float (&part)[kRoutePerLane],
                                          int experts, float* row) {
  const int first = Lane() % kRouteLanes * kRoutePerLane;
  if (first >= GatePadded(experts)) return;
  *reinterpret_cast<float4*>(row + first) =
      float4{part[0], part[1], part[2], part[3]};
}

// Scores of a token -> its attention to those who are left.
__device__ __forceinline__ void Attend(const TierGateArgs& a,
                                       const uint8_t* left, bool there,
                                       float* score) {
  const int first = Lane() % kRouteLanes * kRoutePerLane;
  float part[kRoutePerLane], largest = -INFINITY, sum = 0;
  bool is_left[kRoutePerLane];
  LoadPart(score, first, a.experts, part);
#pragma unroll
  for (int j = 0; j < kRoutePerLane; ++j) {
    is_left[j] = there && first + j < a.experts && left[first + j] != 0;
    if (is_left[j]) largest = fmaxf(largest, part[j] * a.attention_scale);
  }
  largest = LanesMax<kRouteLanes>(largest);
#pragma unroll
  for (int j = 0; j < kRoutePerLane; ++j) {
    part[j] = is_left[j] ? expf(part[j] * a.attention_scale - largest) : 0.f;
    sum += part[j];
  }
  sum = LanesSum<kRouteLanes>(sum);
#pragma unroll
  for (int j = 0; j < kRoutePerLane; ++j) {
    part[j] = is_left[j] ? part[j] / sum : 0.f;
  }
  StorePart(part, a.experts, score);
}

// Of a token, by the gradients of its weights: those of the chosen p.
__device__ __forceinline__ void WeightGrads(const TierGateArgs& a,
                                            const int32_t* expert,
                                            const float* dweight,
                                            const float* p, float (&dp)[4]) {
  constexpr float kSumFloor = 1e-20f;
  const int first = Lane() % kRouteLanes * kRoutePerLane;
  uint32_t chosen = 0;
  float sum = 0, dot = 0;
  for (int place = 0; place < a.k_max; ++place) {
    const int j = expert[place] - first;
    if (j < 0 || j >= kRoutePerLane) continue;
    chosen |= 1u << j;
#pragma unroll
    for (int i = 0; i < kRoutePerLane; ++i) {
      if (i == j) dp[i] = dweight[place];
    }
  }
#pragma unroll
  for (int j = 0; j < kRoutePerLane; ++j) {
    if ((chosen >> j & 1) == 0) continue;
    sum += p[j];
    dot = fmaf(dp[j], p[j], dot);
  }
  sum = LanesSum<kRouteLanes>(sum) + kSumFloor;
  dot = LanesSum<kRouteLanes>(dot);
  const bool by_sum = a.normalize && sum >= a.floor;
  const float factor = a.scale / (by_sum ? sum : a.normalize ? a.floor : 1.f);
  const float mean = by_sum ? dot / sum : 0.f;
#pragma unroll
  for (int j = 0; j < kRoutePerLane; ++j) {
    dp[j] = chosen >> j & 1 ? factor * (dp[j] - mean) : 0.f;
  }
}

// What the gradients of the losses are, a survivor or a token.
struct LossFactors {
  float distill, cost, balance;
};

// A token's products with experts, in dscore, become their gradients; coarse
// scores' go to dcoarse.
__device__ __forceinline__ void ScoreGrads(const TierGateArgs& a,
                                           const RouteGrads& g,
                                           const LossFactors& factors,
                                           int64_t token, bool there,
                                           const float* coarse, float* dscore,
                                           float* dcoarse) {
  const int first = Lane() % kRouteLanes * kRoutePerLane;
  const Affinities of = AffinitiesOf(a, dscore, coarse);
  float dp[kRoutePerLane] = {}, load[kRoutePerLane] = {};
  float dz[kRoutePerLane], dc[kRoutePerLane], even = 0;
  if (g.weight != nullptr) {
    const int64_t at = there ? token * a.k_max : 0;
    WeightGrads(a, g.expert + at, g.weight + at, of.p, dp);
  }
#pragma unroll
  for (int j = 0; j < kRoutePerLane; ++j) {
    if (first + j < a.experts) load[j] = g.load[first + j];
    even = fmaf(load[j], of.share[j], even);
  }
  even = LanesSum<kRouteLanes>(even);
#pragma unroll
  for (int j = 0; j < kRoutePerLane; ++j) {
    const int e = first + j;
    const bool is_there = there && e < a.experts;
    const bool is_left = is_there && g.left[token * a.experts + e] != 0;
    if (is_left) dp[j] += factors.cost;
    dz[j] = dp[j] * of.p[j] * (1.f - of.p[j]) +
            factors.balance * of.share[j] * (load[j] - even);
    dc[j] = a.add_coarse ? dz[j] : 0.f;
    if (is_left) dc[j] += factors.distill * (ShareOf(of.coarse[j]) - of.p[j]);
    dz[j] *= a.affinity_scale;
    if (!is_there) dz[j] = dc[j] = 0;
  }
  StorePart(dz, a.experts, dscore);
  StorePart(dc, a.experts, dcoarse);
}

// The softmax's gradient, in place of the shares'.
__device__ __forceinline__ void AttentionGrads(const TierGateArgs& a,
                                               const float* attention,
                                               float* dattention) {
  const int first = Lane() % kRouteLanes * kRoutePerLane;
  float share[kRoutePerLane], d[kRoutePerLane], dot = 0;
  LoadPart(attention, first, a.experts, share);
  LoadPart(dattention, first, a.experts, d);
#pragma unroll
  for (int j = 0; j < kRoutePerLane; ++j) {
    if (first + j >= a.experts) share[j] = d[j] = 0;
    dot = fmaf(share[j], d[j], dot);
  }
  dot = LanesSum<kRouteLanes>(dot);
#pragma unroll
  for (int j = 0; j < kRoutePerLane; ++j) {
    d[j] = a.attention_scale * share[j] * (d[j] - dot);
  }
  StorePart(d, a.experts, dattention);
}

template <int kPieces>
__global__ void __launch_bounds__(kGateThreads, 1)
    RouteGradKernel(const TierGateArgs a, const RouteGradLayout l,
                    const RouteGrads g) {
  extern __shared__ float memory[];
  const int64_t t = a.tokens.Get();
  const int experts = a.experts, padded = GatePadded(experts);
  const int tall = GatePitch(experts), wide = GatePitch(a.r);
  const int pitch = GatePitch(a.groups);
  const auto tokens = [&](int at, int columns_pitch) {
    return SharedRows{memory + at, columns_pitch, l.rows};
  };
  const auto of_experts = [&](int at, int columns_pitch) {
    return SharedRows{memory + at, columns_pitch, padded};
  };
  const float one = static_cast<float>(max(t, int64_t{1}));
  const auto factor = [](const float* grad, float n) {
    return grad != nullptr ? *grad / n : 0.f;
  };
  const LossFactors factors = {factor(g.distill, one * a.keep),
                               factor(g.cost, one * a.keep),
                               factor(g.balance, one)};
  LoadKeys(a, memory + l.key);
  ClearBeyond(experts, a.groups, memory + l.key);
  LoadPadded(a.expert_embedding, experts, a.r, memory + l.embedding);
  LoadPadded(a.expert_key, experts, a.r, memory + l.expert_key);
  LoadPadded(a.expert_value, experts, a.r, memory + l.expert_value);
  WaitForGateRows();
  float* const sums = g.sums + blockIdx.x * g.block_floats;
  const int key_floats = experts * GatePadded(a.groups);
  const int expert_floats = experts * GatePadded(a.r);
  bool adds = false;
  for (int64_t first = int64_t{blockIdx.x} * l.rows; first < t;
       first += int64_t{gridDim.x} * l.rows) {
    const int n = static_cast<int>(min(int64_t{l.rows}, t - first));
    LoadTokens(a, l, memory, first, n, l.rows);
    __syncthreads();
    constexpr auto kAlong = ExpertOrder::kAlong, kAcross = ExpertOrder::kAcross;
    MultiplyRows<kPieces, kAlong>(
        tokens(l.signature, pitch), of_experts(l.key, pitch),
        GatePadded(a.groups), nullptr, memory + l.coarse, tall, padded, 0);
    MultiplyRows<kPieces, kAlong>(
        tokens(l.query, wide), of_experts(l.expert_key, wide), GatePadded(a.r),
        nullptr, memory + l.attention, tall, padded, kGateWarps / 2);
    __syncthreads();
    ForTokens<kRouteLanes>(l.rows, [&](int i, bool) {
      const bool there = i < n;
      Attend(a, g.left + (there ? (first + i) * experts : 0), there,
             memory + l.attention + i * tall);
    });
    __syncthreads();
    MultiplyRows<kPieces, kAcross>(
        tokens(l.attention, tall), {memory + l.expert_value, wide, a.r}, padded,
        memory + l.query, memory + l.refined, wide, GatePadded(a.r), 0);
    __syncthreads();
    MultiplyRows<kPieces, kAlong>(
        tokens(l.refined, wide), of_experts(l.embedding, wide), GatePadded(a.r),
        nullptr, memory + l.dscore, tall, padded, 0);
    __syncthreads();
    ForTokens<kRouteLanes>(l.rows, [&](int i, bool) {
      ScoreGrads(a, g, factors, first + i, i < n, memory + l.coarse + i * tall,
                 memory + l.dscore + i * tall, memory + l.dcoarse + i * tall);
    });
    __syncthreads();
    MultiplyRows<kPieces, kAcross>(
        tokens(l.dscore, tall), {memory + l.embedding, wide, a.r}, padded,
        nullptr, memory + l.drefined, wide, GatePadded(a.r), 0);
    MultiplyRows<kPieces, kAcross>(
        tokens(l.dcoarse, tall), {memory + l.key, pitch, a.groups}, padded,
        nullptr, memory + l.dsign, pitch, GatePadded(a.groups), kGateWarps / 2);
    __syncthreads();
    MultiplyRows<kPieces, kAlong>(
        tokens(l.drefined, wide), of_experts(l.expert_value, wide),
        GatePadded(a.r), nullptr, memory + l.dattention, tall, padded, 0);
    // These need no more than is there.
    MultiplyColumns<kPieces>(tokens(l.dcoarse, tall),
                             tokens(l.signature, pitch), experts,
                             GatePadded(a.groups), adds, sums, 0);
    MultiplyColumns<kPieces>(tokens(l.dscore, tall), tokens(l.refined, wide),
                             experts, GatePadded(a.r), adds, sums + key_floats,
                             kGateWarps / 2);
    MultiplyColumns<kPieces>(tokens(l.attention, tall),
                             tokens(l.drefined, wide), experts, GatePadded(a.r),
                             adds, sums + key_floats + 2 * expert_floats, 0);
    __syncthreads();
    ForTokens<kRouteLanes>(l.rows, [&](int i, bool) {
      AttentionGrads(a, memory + l.attention + i * tall,
                     memory + l.dattention + i * tall);
    });
    __syncthreads();
    MultiplyRows<kPieces, kAcross>(
        tokens(l.dattention, tall), {memory + l.expert_key, wide, a.r}, padded,
        memory + l.drefined, memory + l.dquery, wide, GatePadded(a.r), 0);
    MultiplyColumns<kPieces>(tokens(l.dattention, tall), tokens(l.query, wide),
                             experts, GatePadded(a.r), adds,
                             sums + key_floats + expert_floats, kGateWarps / 2);
    adds = true;
    __syncthreads();
    ForTokens<kWarp>(n, [&](int i, bool) {
      float* const row = g.token + (first + i) * a.projected;
      const float* const dquery = memory + l.dquery + i * wide;
      SignatureGrad(memory + l.dsign + i * pitch,
                    memory + l.energy + i * GatePitch(a.energies), a.groups,
                    a.energies / a.groups, memory + l.signature + i * pitch,
                    row);
      for (int c = Lane(); c < a.r; c += kWarp) row[a.energies + c] = dquery[c];
    });
    __syncthreads();
  }
  if (adds) return;
  for (int64_t i = threadIdx.x; i < g.block_floats; i += kGateThreads) {
    sums[i] = 0;
  }
}

// The gradient of what experts are: blocks' sums, without what pads them.
__global__ void __launch_bounds__(kBlock)
    SumBlocksKernel(const TierGateArgs a, const RouteGrads g, int blocks) {
  const int key_columns = GatePadded(a.groups), columns = GatePadded(a.r);
  const int64_t key_floats = int64_t{a.experts} * key_columns;
  for (int64_t i = FirstElement(); i < g.block_floats; i += ElementStride()) {
    const bool of_key = i < key_floats;
    const int wide = of_key ? key_columns : columns;
    const int real = of_key ? a.groups : a.r;
    const int64_t row = of_key ? i / wide : (i - key_floats) / wide;
    const int column =
        static_cast<int>(of_key ? i % wide : (i - key_floats) % wide);
    if (column >= real) continue;
    float sum = 0;
#pragma unroll 16
    for (int block = 0; block < blocks; ++block) {
      sum += g.sums[block * g.block_floats + i];
    }
    const int of = of_key ? 0 : 1 + static_cast<int>(row / a.experts);
    g.result[of][row % a.experts * real + column] = sum;
  }
}

}  // namespace

cudaError_t RunTierRouteGrad(const KernelContext& ctx) {
  const TierGateArgs a = ReadRouteArgs(ctx, kGradToken, kGradKey, kGradExperts);
  if (!RouteFits(a)) return ctx.Refuse(kRouteTooWide);
  RouteGrads g;
  const auto or_null = [&](int i) {
    return ctx.has(i) ? ctx.in(i).as<float>() : nullptr;
  };
  g.weight = or_null(kGradWeight);
  g.distill = or_null(kGradDistill);
  g.cost = or_null(kGradCost);
  g.balance = or_null(kGradBalance);
  g.expert = ctx.in(kGradExpert).as<int32_t>();
  g.left = ctx.in(kGradLeft).as<uint8_t>();
  g.load = ctx.in(kGradLoad).as<float>();
  g.token = ctx.out(0).as<float>();
  for (int i = 0; i < 4; ++i) g.result[i] = ctx.out(1 + i).as<float>();
  g.block_floats =
      int64_t{a.experts} * (GatePadded(a.groups) + 3 * GatePadded(a.r));
  // Tiles of tokens are whole tiles of products over them.
  int rows =
      a.tokens.bound > kRouteBlocks * kTileRows ? 2 * kTileRows : kTileRows;
  RouteGradLayout layout = RouteGradLayout::Of(a, rows);
  if (layout.bytes() > kMaxRouteBytes) {
    layout = RouteGradLayout::Of(a, rows = kTileRows);
  }
  if (layout.bytes() > kMaxRouteBytes) return ctx.Refuse(kRouteTooWide);
  const int blocks = static_cast<int>(
      std::clamp<int64_t>(CeilDiv(a.tokens.bound, rows), 1, kRouteBlocks));
  g.sums = ctx.Take<float>(blocks * g.block_floats);
  if (g.sums == nullptr) return cudaErrorMemoryAllocation;
  auto* const kernel =
      PiecesOf(ctx.precision) == GatePieces::kOne
          ? RouteGradKernel<static_cast<int>(GatePieces::kOne)>
          : RouteGradKernel<static_cast<int>(GatePieces::kThree)>;
  if (const cudaError_t e = AllowRouteBytes(kernel); e) return e;
  kernel<<<blocks, kGateThreads, layout.bytes(), ctx.stream>>>(a, layout, g);
  SumBlocksKernel<<<BlocksFor(g.block_floats), kBlock, 0, ctx.stream>>>(a, g,
                                                                        blocks);
  return cudaGetLastError();
}

}  // namespace strata::gpu
