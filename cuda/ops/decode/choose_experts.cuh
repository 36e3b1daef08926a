// A flat gate's choice (choose_experts.h), by a block for itself: on an H200
// some 2 us of one token and 3 of 32, from the wait for logits on, which cost
// less than a kernel between the gate and its experts.

#ifndef CUDA_OPS_DECODE_CHOOSE_EXPERTS_CUH_
#define CUDA_OPS_DECODE_CHOOSE_EXPERTS_CUH_

#include <cmath>
#include <cstdint>

#include "cuda/kernels/lane_lists.cuh"
#include "cuda/ops/decode/choose_experts.h"
#include "cuda/ops/device.cuh"

namespace strata::gpu {

constexpr int kMaxChoosers = kWarpsPerBlock;  // Tokens, a warp each.
constexpr int kMaxOffered = kBlock;           // Experts, a thread each.
constexpr int kMaxChosen = kWarp;             // Of a token.

// In shared memory.
struct ChosenExperts {
  int expert[kMaxChoosers * kMaxChosen];    // [t, k]
  float weight[kMaxChoosers * kMaxChosen];  // [t, k]
  int num_slots;
  // The experts that have slots, in order, and of each which of token i's slots
  // is its own, -1 where none.
  int num_active;
  int active[kMaxOffered];
  int8_t pick[kMaxOffered][kMaxChoosers];
  uint32_t has_slots[kMaxOffered / kWarp + 1];  // A bit an expert; then none.
};

// A score as an integer that is larger where the score is: -0 equals 0, and NaN
// is below all else.
__device__ __forceinline__ uint32_t KeyOf(float score) {
  score += 0.f;
  int32_t key = __float_as_int(score);
  if (key < 0) key ^= INT32_MAX;
  if (isnan(score)) key = INT32_MIN + 1;
  return static_cast<uint32_t>(key) ^ 0x80000000u;
}

// A slot's expert and weight.
struct ExpertChoice {
  int expert = 0;
  float weight = 0;
};

// Of a token, by a warp; lane j's result is the j-th choice. Lane l has experts
// l, l + 32, ..., whose logits are logit_of(expert) and biases
// bias_of(expert), of those that there are.
template <int kPerLane, typename LogitOf, typename BiasOf>
__device__ __forceinline__ ExpertChoice ChooseOf(const ChooseExpertsArgs& a,
                                                 LogitOf logit_of,
                                                 BiasOf bias_of) {
  const int lane = Lane();
  float p[kPerLane], bias[kPerLane];
  float largest = -INFINITY;
#pragma unroll
  for (int i = 0; i < kPerLane; ++i) {
    const int e = i * kWarp + lane;
    const bool there = e < a.num_experts;
    p[i] = there ? logit_of(e) : -INFINITY;
    bias[i] = there && a.bias != nullptr ? bias_of(e) : 0.f;
    largest = fmaxf(largest, p[i]);
  }
  float sum = 1;
  if (a.softmax) {
    largest = WarpMax(largest);
    sum = 0;
#pragma unroll
    for (int i = 0; i < kPerLane; ++i) {
      p[i] = expf(p[i] - largest);
      sum += p[i];
    }
    sum = WarpSum(sum);
  }
  // The lane's experts, the best first, of equal ones the first: rounds take
  // heads of such lists, as each wants as few instructions as may be. 0: not
  // offered, or taken.
  uint32_t key[kPerLane];
  int expert[kPerLane];
#pragma unroll
  for (int i = 0; i < kPerLane; ++i) {
    p[i] = a.softmax ? p[i] / sum : SigmoidOf(p[i]);
    expert[i] = i * kWarp + lane;
    key[i] = expert[i] < a.num_experts ? KeyOf(p[i] + bias[i]) : 0;
  }
  SortDescending(key, expert);
  int mine = 0;  // Lane j's is the j-th choice.
#pragma unroll 1
  for (int j = 0; j < a.k; ++j) {
    const bool is_largest = key[0] == __reduce_max_sync(kWholeWarp, key[0]);
    const unsigned largest_of = __ballot_sync(kWholeWarp, is_largest);
    int from = __ffs(static_cast<int>(largest_of)) - 1;
    if (__popc(largest_of) > 1) {  // Of equal scores, the first expert.
      const unsigned e = is_largest ? expert[0] : UINT32_MAX;
      from = static_cast<int>(__reduce_min_sync(kWholeWarp, e) % kWarp);
    }
    const int taken = __shfl_sync(kWholeWarp, expert[0], from);
    if (lane == j) mine = taken;
    if (lane != from) continue;
#pragma unroll
    for (int i = 0; i + 1 < kPerLane; ++i) {
      key[i] = key[i + 1], expert[i] = expert[i + 1];
    }
    key[kPerLane - 1] = 0;
  }
  float choice_p = 0;
#pragma unroll
  for (int i = 0; i < kPerLane; ++i) {
    const float there = __shfl_sync(kWholeWarp, p[i], mine % kWarp);
    if (mine / kWarp == i && lane < a.k) choice_p = there;
  }
  float divisor = 1;
  if (a.normalize) {
    constexpr float kSumFloor = 1e-20f;  // As SelectedWeight's.
    divisor = fmaxf(kSumFloor + WarpSum(choice_p), a.floor);
  }
  return {mine, a.scale / divisor * choice_p};
}

// Of `token`, whose logits are read where L2 has them, as this may be before
// earlier kernels have ended. `to` has expert and weight [t, k], in shared
// memory.
template <int kPerLane, typename Chosen>
__device__ __forceinline__ void ChooseOfToken(const ChooseExpertsArgs& a,
                                              int token, Chosen& to) {
  const float* const logits = a.logits + int64_t{token} * a.num_experts;
  const ExpertChoice mine = ChooseOf<kPerLane>(
      a, [&](int e) { return __ldcg(logits + e); },
      [&](int e) { return __ldg(a.bias + e); });
  if (Lane() < a.k) {
    to.expert[token * a.k + Lane()] = mine.expert;
    to.weight[token * a.k + Lane()] = mine.weight;
  }
  __syncwarp();
}

// Before earlier kernels have ended: the bias, which none of them makes, to
// where it is near.
__device__ __forceinline__ void BringBias(const ChooseExpertsArgs& a) {
  const int e = static_cast<int>(threadIdx.x) * 8;  // 32 bytes.
  if (a.bias == nullptr || e >= a.num_experts) return;
  asm volatile("prefetch.global.L2 [%0];" ::"l"(a.bias + e));
}

// By a block of kBlock threads or more; ends with a barrier.
__device__ __forceinline__ void Choose(const ChooseExpertsArgs& a,
                                       ChosenExperts& to) {
  const int e = static_cast<int>(threadIdx.x), warp = e / kWarp;
  const int tokens = static_cast<int>(a.tokens.Get()), slots = tokens * a.k;
  if (e <= kMaxOffered / kWarp) to.has_slots[e] = 0;
  if (warp < a.tokens.bound) {
    if (a.num_experts <= kMaxOffered / 2) {
      ChooseOfToken<kMaxOffered / kWarp / 2>(a, warp, to);
    } else {
      ChooseOfToken<kMaxOffered / kWarp>(a, warp, to);
    }
  }
  __syncthreads();
  if (e == 0) to.num_slots = slots;
  if (a.tokens.bound == 1) {  // In the order of its slots.
    if (e == 0) to.num_active = slots;
    if (e < slots) to.active[e] = to.expert[e];
    if (e < slots * kMaxChoosers) {
      const int t = e % kMaxChoosers, at = e / kMaxChoosers;
      to.pick[at][t] = static_cast<int8_t>(t == 0 ? at : -1);
    }
    __syncthreads();
    return;
  }
  // The experts that have slots, a bit each, then their places in order.
  if (e < slots) {
    atomicOr(&to.has_slots[to.expert[e] / kWarp], 1u << to.expert[e] % kWarp);
  }
  __syncthreads();
  const auto place_of = [&](int expert) {
    int at =
        __popc(to.has_slots[expert / kWarp] & ((1u << expert % kWarp) - 1));
    for (int w = 0; w < expert / kWarp; ++w) at += __popc(to.has_slots[w]);
    return at;
  };
  if (e < kMaxOffered && (to.has_slots[warp] >> Lane() & 1) != 0) {
    const int at = place_of(e);
    to.active[at] = e;
    for (int t = 0; t < kMaxChoosers; ++t) to.pick[at][t] = -1;
  }
  if (e == 0) to.num_active = place_of(kMaxOffered);
  __syncthreads();
  if (e < slots) {
    to.pick[place_of(to.expert[e])][e / a.k] = static_cast<int8_t>(e % a.k);
  }
  __syncthreads();
}

// The choice to memory, by a block.
__device__ __forceinline__ void StoreChoice(const ChooseExpertsArgs& a,
                                            const ChosenExperts& from) {
  const int e = static_cast<int>(threadIdx.x), slots = from.num_slots;
  if (e < a.num_experts) {
    int before = 0;
    for (int s = 0; s < slots; ++s) before += from.expert[s] < e;
    a.offset[e] = before;
  }
  if (e == 0) {
    a.offset[a.num_experts] = slots;
    *a.rows = slots;
  }
  if (a.expert == nullptr || e >= slots) return;
  a.expert[e] = from.expert[e];
  a.weight[e] = from.weight[e];
}

}  // namespace strata::gpu

#endif  // CUDA_OPS_DECODE_CHOOSE_EXPERTS_CUH_
