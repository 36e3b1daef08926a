// What a gate does with tokens whose projections are in shared memory: energy
// signature, coarse filter, attention to the experts that are left, choice and
// weights. By a block, up to 32 tokens at a time:
//
//   energy, query   [tokens, .]    of the projection
//     | a warp a token
//   signature       [tokens, G]
//     | all threads, a few products each        coarse = signature key^T
//   coarse, scores  [tokens, E]                 scores = query expert_key^T
//     | a warp a token: the best `keep`, softmax over them
//   attention       [tokens, E]    in place of scores
//     | all threads                refined = query + attention expert_value
//     | all threads                p = sigmoid(refined embedding^T (+ coarse))
//   p               [tokens, E]    in place of attention
//     | a warp a token
//   expert, stay, weight
//
// Bound by the latency of what a warp does for a token by itself.

#ifndef CUDA_OPS_TIER_GATE_CUH_
#define CUDA_OPS_TIER_GATE_CUH_

#include <climits>
#include <cstdint>

#include "cuda/ops/device.cuh"
#include "cuda/ops/energy.cuh"
#include "cuda/ops/tier_gate.h"
#include "cuda_pipeline.h"

namespace strata::gpu {

constexpr int kGateThreads = 512;
constexpr int kGateWarps = kGateThreads / kWarp;
constexpr int kMaskWords = kMaxGateExperts / 32;

// Floats from row to row in shared memory: whole vectors, of which eight rows'
// lie in different banks.
__host__ __device__ constexpr int GatePitch(int n) {
  return (n + 3) / 4 * 4 + 4;
}

// Where the rows lie, in floats from the first; and what of the experts lies in
// shared memory as well.
struct GateLayout {
  int rows = 1;
  int energy = 0, query = 0, signature = 0, coarse = 0, score = 0, refined = 0;
  int mask = 0, count = 0;
  int row_floats = 0;  // All of these.
  bool experts_shared = false;
  int key = 0, expert_embedding = 0, expert_key = 0, expert_value = 0;
  int expert_floats = 0;

  __host__ static GateLayout Of(const TierGateArgs& a, int rows) {
    GateLayout l;
    l.rows = rows;
    int at = 0;
    const auto take = [&at](int floats) {
      const int first = at;
      at += (floats + 3) / 4 * 4;
      return first;
    };
    l.energy = take(a.has_energies ? rows * GatePitch(a.energies) : 0);
    l.query = take(rows * GatePitch(a.r));
    l.signature = take(rows * GatePitch(a.groups));
    l.coarse = take(rows * GatePitch(a.experts));
    l.score = take(rows * GatePitch(a.experts));
    l.refined = take(rows * GatePitch(a.r));
    l.mask = take(rows * kMaskWords);
    l.count = take(a.experts);
    l.row_floats = at;
    at = 0;
    l.key = take(a.experts * GatePitch(a.groups));
    l.expert_embedding = take(a.experts * GatePitch(a.r));
    l.expert_key = take(a.experts * GatePitch(a.r));
    l.expert_value = take(a.experts * GatePitch(a.r));
    l.expert_floats = at;
    return l;
  }
};

// Rows of floats, in shared memory with whole vectors, or in the device's.
struct GateRows {
  const float* at;
  int pitch;
  bool vectors;

  __device__ const float* operator[](int i) const {
    return at + static_cast<int64_t>(i) * pitch;
  }
};

// rows [n, columns] to shared memory, with zeros up to a whole vector, a warp a
// row. Whole vectors come without waiting: WaitForGateRows(), and a barrier,
// before they are read.
__device__ __forceinline__ void LoadGateRows(const float* from, int n,
                                             int columns, float* to) {
  const int pitch = GatePitch(columns), padded = (columns + 3) / 4 * 4;
  for (int row = threadIdx.x / kWarp; row < n; row += kGateWarps) {
    const float* const source = from + int64_t{row} * columns;
    float* const target = to + row * pitch;
    if (columns % 4 == 0) {
      for (int c = Lane() * 4; c < columns; c += kWarp * 4) {
        __pipeline_memcpy_async(target + c, source + c, sizeof(float4));
      }
    } else {
      for (int c = Lane(); c < padded; c += kWarp) {
        target[c] = c < columns ? source[c] : 0.f;
      }
    }
  }
}
__device__ __forceinline__ void WaitForGateRows() {
  __pipeline_commit();
  __pipeline_wait_prior(0);
}

// The experts' side of a gate.
struct GateExperts {
  GateRows key, embedding, expert_key, value;
};
__device__ __forceinline__ GateExperts LoadExperts(const TierGateArgs& a,
                                                   const GateLayout& l,
                                                   float* memory) {
  if (!l.experts_shared) {
    return {{a.key, a.groups, false},
            {a.expert_embedding, a.r, false},
            {a.expert_key, a.r, false},
            {a.expert_value, a.r, false}};
  }
  LoadGateRows(a.key, a.experts, a.groups, memory + l.key);
  LoadGateRows(a.expert_embedding, a.experts, a.r, memory + l.expert_embedding);
  LoadGateRows(a.expert_key, a.experts, a.r, memory + l.expert_key);
  LoadGateRows(a.expert_value, a.experts, a.r, memory + l.expert_value);
  const int wide = GatePitch(a.r);
  return {{memory + l.key, GatePitch(a.groups), true},
          {memory + l.expert_embedding, wide, true},
          {memory + l.expert_key, wide, true},
          {memory + l.expert_value, wide, true}};
}

__device__ __forceinline__ void AddProducts(float& sum, float4 a, float4 b) {
  sum = fmaf(a.x, b.x, sum);
  sum = fmaf(a.y, b.y, sum);
  sum = fmaf(a.z, b.z, sum);
  sum = fmaf(a.w, b.w, sum);
}

// store(i, j, dot of row i of a and row j of b) for all i < n, j < columns. A
// thread does two rows by three columns at a time.
template <typename Store>
__device__ __forceinline__ void DotRows(const float* a, int pitch, int n,
                                        const GateRows& b, int columns,
                                        int length, Store store) {
  constexpr int kRows = 2, kColumns = 3;
  const int width = (columns + kColumns - 1) / kColumns;
  const int units = (n + kRows - 1) / kRows * width;
  for (int unit = threadIdx.x; unit < units; unit += kGateThreads) {
    const int first = unit / width * kRows, column = unit % width;
    const float* row[kRows];
    const float* other[kColumns];
    float sum[kRows][kColumns] = {};
#pragma unroll
    for (int i = 0; i < kRows; ++i) row[i] = a + min(first + i, n - 1) * pitch;
#pragma unroll
    for (int j = 0; j < kColumns; ++j) {
      other[j] = b[min(column + j * width, columns - 1)];
    }
    if (b.vectors) {
      for (int c = 0; c < length; c += 4) {
        float4 x[kRows], y[kColumns];
#pragma unroll
        for (int i = 0; i < kRows; ++i) {
          x[i] = *reinterpret_cast<const float4*>(row[i] + c);
        }
#pragma unroll
        for (int j = 0; j < kColumns; ++j) {
          y[j] = *reinterpret_cast<const float4*>(other[j] + c);
#pragma unroll
          for (int i = 0; i < kRows; ++i) AddProducts(sum[i][j], x[i], y[j]);
        }
      }
    } else {
      for (int c = 0; c < length; ++c) {
#pragma unroll
        for (int j = 0; j < kColumns; ++j) {
          const float y = other[j][c];
#pragma unroll
          for (int i = 0; i < kRows; ++i) {
            sum[i][j] = fmaf(row[i][c], y, sum[i][j]);
          }
        }
      }
    }
#pragma unroll
    for (int i = 0; i < kRows; ++i) {
#pragma unroll
      for (int j = 0; j < kColumns; ++j) {
        const int to = column + j * width;
        if (first + i < n && to < columns) store(first + i, to, sum[i][j]);
      }
    }
  }
}

// refined [n, r] = query + attention [n, experts] value [experts, r].
__device__ __forceinline__ void MixValues(const float* query,
                                          const float* attention, int pitch,
                                          const GateRows& value, int n,
                                          int experts, int r, float* refined) {
  const int wide = GatePitch(r);
  if (value.vectors) {
    const int vectors = (r + 3) / 4;
    for (int unit = threadIdx.x; unit < n * vectors; unit += kGateThreads) {
      const int i = unit / vectors, c = unit % vectors * 4;
      const float* const share = attention + i * pitch;
      float4 sum = {0, 0, 0, 0};
      for (int e = 0; e < experts; ++e) {
        const float4 v = *reinterpret_cast<const float4*>(value[e] + c);
        const float w = share[e];
        sum = {fmaf(w, v.x, sum.x), fmaf(w, v.y, sum.y), fmaf(w, v.z, sum.z),
               fmaf(w, v.w, sum.w)};
      }
      const float4 q = *reinterpret_cast<const float4*>(query + i * wide + c);
      *reinterpret_cast<float4*>(refined + i * wide + c) = {
          q.x + sum.x, q.y + sum.y, q.z + sum.z, q.w + sum.w};
    }
    return;
  }
  for (int unit = threadIdx.x; unit < n * r; unit += kGateThreads) {
    const int i = unit / r, c = unit % r;
    float sum = 0;
    for (int e = 0; e < experts; ++e) {
      sum = fmaf(attention[i * pitch + e], value[e][c], sum);
    }
    refined[i * wide + c] = query[i * wide + c] + sum;
  }
}

// --- Of one token, by a warp: expert e is lane e % 32's number e / 32 ---

// A score as an integer of the same order; -0 equals 0, NaN is below all else.
__device__ __forceinline__ int OrderedKey(float score) {
  score += 0.f;  // -0 becomes 0.
  int key = __float_as_int(score);
  if (key < 0) key ^= INT_MAX;
  return isnan(score) ? INT_MIN : key;
}

// The `keep` best of a token's scores, of equal ones those of lower index, as a
// bit of each lane's `mask`. The least score that is kept is found by halving
// the range of integers, which ends as soon as just `keep` are above.
template <int kPerLane>
__device__ __forceinline__ uint32_t KeepLargest(const int (&key)[kPerLane],
                                                int experts, int keep) {
  int low = INT_MAX, high = INT_MIN;
#pragma unroll
  for (int j = 0; j < kPerLane; ++j) {
    if (Lane() + j * kWarp >= experts) continue;
    low = min(low, key[j]);
    high = max(high, key[j]);
  }
  low = __reduce_min_sync(kWholeWarp, low);
  high = __reduce_max_sync(kWholeWarp, high);
  const auto count_from = [&](int least, bool above) {
    int n = 0;
#pragma unroll
    for (int j = 0; j < kPerLane; ++j) {
      const bool there = Lane() + j * kWarp < experts;
      n += __popc(__ballot_sync(
          kWholeWarp,
          there && (key[j] > least || (!above && key[j] == least))));
    }
    return n;
  };
  while (low < high) {
    const uint32_t distance =
        static_cast<uint32_t>(high) - static_cast<uint32_t>(low);
    const int middle = high - static_cast<int>(distance / 2);  // Above low.
    const int n = count_from(middle, false);
    if (n >= keep) low = middle;
    if (n == keep) break;
    if (n < keep) high = middle - 1;
  }
  int left = keep - count_from(low, true);  // Of those equal to the least.
  uint32_t mask = 0;
#pragma unroll
  for (int j = 0; j < kPerLane; ++j) {
    const bool there = Lane() + j * kWarp < experts;
    const bool equal = there && key[j] == low;
    const unsigned equals = __ballot_sync(kWholeWarp, equal);
    const int before = __popc(equals & ((1u << Lane()) - 1));
    if ((there && key[j] > low) || (equal && before < left)) mask |= 1u << j;
    left -= __popc(equals);
  }
  return mask;
}

// coarse -> who is left (to `mask`), and scores -> attention to those.
template <int kPerLane>
__device__ __forceinline__ void FilterToken(const TierGateArgs& a,
                                            const float* coarse, float* score,
                                            uint32_t* mask) {
  int key[kPerLane];
  float value[kPerLane];
#pragma unroll
  for (int j = 0; j < kPerLane; ++j) {
    const int e = Lane() + j * kWarp;
    const bool there = e < a.experts;
    const float bias = there && a.bias != nullptr ? a.bias[e] : 0.f;
    key[j] = there ? OrderedKey(SigmoidOf(coarse[e]) + bias) : INT_MIN;
    value[j] = there ? a.attention_scale * score[e] : 0.f;
  }
  const uint32_t left = KeepLargest(key, a.experts, a.keep);
  float largest = -INFINITY;
#pragma unroll
  for (int j = 0; j < kPerLane; ++j) {
    if (left >> j & 1) largest = fmaxf(largest, value[j]);
  }
  largest = WarpMax(largest);
  float sum = 0;
#pragma unroll
  for (int j = 0; j < kPerLane; ++j) {
    value[j] = left >> j & 1 ? expf(value[j] - largest) : 0.f;
    sum += value[j];
  }
  const float inverse = 1.f / WarpSum(sum);
#pragma unroll
  for (int j = 0; j < kPerLane; ++j) {
    const int e = Lane() + j * kWarp;
    if (e < a.experts) score[e] = value[j] * inverse;
    const unsigned word = __ballot_sync(kWholeWarp, left >> j & 1);
    if (Lane() == 0) mask[j] = word;
  }
}

// p -> the token's row of the results. `count` [E] counts slots of the block.
// Sums of p are in double, as the CPU's, in which their order hardly matters.
template <int kPerLane>
__device__ __forceinline__ void SelectToken(const TierGateArgs& a,
                                            const float* p,
                                            const uint32_t* mask, int64_t token,
                                            int* count) {
  int key[kPerLane];
  uint32_t left = 0;
  int num_left = 0;
  double sum = 0;
  float largest = -INFINITY;
#pragma unroll
  for (int j = 0; j < kPerLane; ++j) {
    const int e = Lane() + j * kWarp;
    const bool survives = e < a.experts && (mask[j] >> Lane() & 1);
    num_left += __popc(__ballot_sync(kWholeWarp, survives));
    key[j] = INT_MIN;
    if (!survives) continue;
    left |= 1u << j;
    key[j] = OrderedKey(p[e] + (a.bias != nullptr ? a.bias[e] : 0.f));
    sum += p[e];
    largest = fmaxf(largest, p[e]);
  }
  sum = WarpSum(sum);
  largest = WarpMax(largest);
  const bool stays = num_left > 0 && !(largest < a.exit_threshold);
  const int most = stays ? min(a.k_max, num_left) : 0;
  double taken = 0;
  int chosen[2] = {-1, -1};  // Of the places Lane() and Lane() + 32.
  for (int place = 0; place < most; ++place) {
    if (place >= a.k_min && taken >= a.tau * sum) break;
    int best = INT_MIN;
#pragma unroll
    for (int j = 0; j < kPerLane; ++j) {
      if (left >> j & 1) best = max(best, key[j]);
    }
    best = __reduce_max_sync(kWholeWarp, best);
    int expert = -1;
#pragma unroll
    for (int j = 0; j < kPerLane; ++j) {
      const unsigned equals =
          __ballot_sync(kWholeWarp, (left >> j & 1) && key[j] == best);
      if (expert >= 0 || equals == 0) continue;
      const int lane = __ffs(static_cast<int>(equals)) - 1;
      expert = lane + j * kWarp;
      if (Lane() == lane) left &= ~(1u << j);
    }
    taken += p[expert];
    if (place % kWarp == Lane()) chosen[place / kWarp] = expert;
  }
  float factor = a.scale;
  if (a.normalize) {
    constexpr double kSumFloor = 1e-20;
    factor /= fmaxf(static_cast<float>(taken + kSumFloor), a.floor);
  }
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const int place = Lane() + half * kWarp, e = chosen[half];
    if (place >= a.k_max) continue;
    a.expert[token * a.k_max + place] = e;
    a.weight[token * a.k_max + place] = e >= 0 ? factor * p[e] : 0.f;
    if (e >= 0) atomicAdd(&count[e], 1);
  }
  if (Lane() == 0) a.stay[token] = stays;
}

// Tokens `first` and on, `n` of them, whose energies and queries lie in
// `memory` as the layout says. Begins and ends with a barrier.
template <int kPerLane>
__device__ __forceinline__ void ChooseTile(const TierGateArgs& a,
                                           const GateLayout& l, float* memory,
                                           const GateExperts& experts,
                                           int64_t first, int n) {
  const int warp = threadIdx.x / kWarp;
  const int wide = GatePitch(a.r), tall = GatePitch(a.experts);
  const int pitch = GatePitch(a.groups);
  const int padded_groups = (a.groups + 3) / 4 * 4;
  float* const signature = memory + l.signature;
  float* const coarse = memory + l.coarse;
  float* const score = memory + l.score;
  float* const refined = memory + l.refined;
  const float* const query = memory + l.query;
  auto* const mask = reinterpret_cast<uint32_t*>(memory + l.mask);
  auto* const count = reinterpret_cast<int*>(memory + l.count);
  WaitForGateRows();
  __syncthreads();
  for (int i = warp; i < n; i += kGateWarps) {
    const float* const row = a.has_energies
                                 ? memory + l.energy + i * GatePitch(a.energies)
                                 : a.x + (first + i) * a.d;
    float* const s = signature + i * pitch;
    Signature(row, a.groups, a.energies / a.groups, s, s);
    for (int g = a.groups + Lane(); g < padded_groups; g += kWarp) s[g] = 0;
  }
  __syncthreads();
  DotRows(signature, pitch, n, experts.key, a.experts, a.groups,
          [&](int i, int e, float sum) { coarse[i * tall + e] = sum; });
  DotRows(query, wide, n, experts.expert_key, a.experts, a.r,
          [&](int i, int e, float sum) { score[i * tall + e] = sum; });
  __syncthreads();
  for (int i = warp; i < n; i += kGateWarps) {
    FilterToken<kPerLane>(a, coarse + i * tall, score + i * tall,
                          mask + i * kMaskWords);
  }
  __syncthreads();
  MixValues(query, score, tall, experts.value, n, a.experts, a.r, refined);
  __syncthreads();
  DotRows(refined, wide, n, experts.embedding, a.experts, a.r,
          [&](int i, int e, float sum) {
            sum *= a.affinity_scale;
            if (a.add_coarse) sum += coarse[i * tall + e];
            score[i * tall + e] = SigmoidOf(sum);
          });
  __syncthreads();
  for (int i = warp; i < n; i += kGateWarps) {
    SelectToken<kPerLane>(a, score + i * tall, mask + i * kMaskWords, first + i,
                          count);
  }
  __syncthreads();
}

// Of a tile of args.tile_tokens: before its first tokens are chosen for, and
// after the last. No barrier but those of ChooseTile() is between.
__device__ __forceinline__ void ClearCounts(const TierGateArgs& a,
                                            const GateLayout& l,
                                            float* memory) {
  auto* const count = reinterpret_cast<int*>(memory + l.count);
  for (int e = threadIdx.x; e < a.experts; e += kGateThreads) count[e] = 0;
}
__device__ __forceinline__ void StoreCounts(const TierGateArgs& a,
                                            const GateLayout& l,
                                            const float* memory, int64_t tile) {
  const auto* const count = reinterpret_cast<const int*>(memory + l.count);
  for (int e = threadIdx.x; e < a.experts; e += kGateThreads) {
    a.count[tile * a.experts + e] = static_cast<uint16_t>(count[e]);
  }
}

// Calls launch(integral constant) with the least number of experts a lane that
// kernels are made for.
template <int n>
struct PerLane {
  static constexpr int value = n;
};
template <typename Launch>
cudaError_t WithExpertsPerLane(int experts, Launch launch) {
  if (experts <= 2 * kWarp) return launch(PerLane<2>());
  if (experts <= 4 * kWarp) return launch(PerLane<4>());
  return launch(PerLane<kMaxGateExperts / kWarp>());
}

}  // namespace strata::gpu

#endif  // CUDA_OPS_TIER_GATE_CUH_
