// What a gate decides of one token, by kLanes neighbouring lanes of a warp: who
// is left behind the coarse filter, whom the token goes to, and with which
// weights. Lane i of them has experts i kPerLane and the kPerLane - 1 behind
// it.
//
// A warp takes 32 / kLanes tokens at the same time, so a step that waits for
// another lane waits once for all of them. Lanes of a token that is not there
// (`there` false) go through the same steps and write nothing.

#ifndef CUDA_OPS_GATE_TOKENS_CUH_
#define CUDA_OPS_GATE_TOKENS_CUH_

#include <climits>
#include <cstdint>

#include "cuda/kernels/lane_lists.cuh"
#include "cuda/ops/device.cuh"
#include "cuda/ops/tier_gate.h"

namespace strata::gpu {

// --- Over the lanes of a token ---

// Of counts that add up to less than 65,536.
template <int kLanes>
__device__ __forceinline__ int LanesCount(int n) {
  if (kLanes == kWarp) return __reduce_add_sync(kWholeWarp, n);
  const int shift = Lane() / kLanes * kLanes;
  return __reduce_add_sync(kWholeWarp, static_cast<unsigned>(n) << shift) >>
             shift &
         0xffff;
}

template <int kLanes>
__device__ __forceinline__ int LanesLargest(int value) {
  if (kLanes == kWarp) return __reduce_max_sync(kWholeWarp, value);
  const bool upper = Lane() >= kLanes;
  const int low = __reduce_max_sync(kWholeWarp, upper ? INT_MIN : value);
  const int high = __reduce_max_sync(kWholeWarp, upper ? value : INT_MIN);
  return upper ? high : low;
}

// A bit for each lane of the token where it is true.
template <int kLanes>
__device__ __forceinline__ unsigned LanesBallot(bool is) {
  static_assert(kLanes == kWarp || kLanes == kWarp / 2, "one token, or two");
  const unsigned all = __ballot_sync(kWholeWarp, is);
  return kLanes == kWarp ? all : all >> Lane() / kLanes * kLanes & 0xffff;
}

// This lane's part of a row of `n`, which begins at a whole vector and is
// padded to one; what is not there is 0.
template <int kPerLane>
__device__ __forceinline__ void LoadPart(const float* row, int first, int n,
                                         float (&part)[kPerLane]) {
  static_assert(kPerLane % 4 == 0, "whole vectors");
#pragma unroll
  for (int j = 0; j < kPerLane; j += 4) {
    const float4 v = first + j < n
                         ? *reinterpret_cast<const float4*>(row + first + j)
                         : float4{0, 0, 0, 0};
    part[j] = v.x, part[j + 1] = v.y, part[j + 2] = v.z, part[j + 3] = v.w;
  }
}

// A score as an integer of the same order; -0 equals 0, NaN is below all else.
__device__ __forceinline__ int OrderedKey(float score) {
  score += 0.f;  // -0 becomes 0.
  int key = __float_as_int(score);
  if (key < 0) key ^= INT_MAX;
  return isnan(score) ? INT_MIN : key;
}

// 1 / (1 + exp(-x)), within two units of the last place.
__device__ __forceinline__ float ShareOf(float x) {
  return __fdividef(1.f, 1.f + expf(-x));
}

// --- The filter ---

// The `keep` best of a token's keys, of equal ones those of lower index, as
// bits of each lane. The least key that is kept is found by halving the range
// of integers, which ends as soon as just `keep` are above, or all but one of
// them: that is the largest of the others, however close the next.
template <int kLanes, int kPerLane>
__device__ __forceinline__ uint32_t KeepLargest(const int (&key)[kPerLane],
                                                int first, int experts,
                                                int keep) {
  int low = INT_MAX, high = INT_MIN;
#pragma unroll
  for (int j = 0; j < kPerLane; ++j) {
    if (first + j >= experts) continue;
    low = min(low, key[j]);
    high = max(high, key[j]);
  }
  low = __reduce_min_sync(kWholeWarp, low);  // Of all tokens of the warp.
  high = __reduce_max_sync(kWholeWarp, high);
  int above = 0;  // Keys above `high`.
  bool open = low < high && keep > 1;
#pragma unroll 1
  while (__any_sync(kWholeWarp, open)) {
    const uint32_t distance =
        static_cast<uint32_t>(high) - static_cast<uint32_t>(low);
    const int middle = high - static_cast<int>(distance / 2);  // Above low.
    int n = 0;
#pragma unroll
    for (int j = 0; j < kPerLane; ++j) {
      n += first + j < experts && key[j] >= middle;
    }
    n = LanesCount<kLanes>(n);
    // No branches: lanes of the other token must not fall behind.
    low = open && n >= keep ? middle : low;
    high = open && n < keep ? middle - 1 : high;
    above = open && n < keep ? n : above;
    open = open && n != keep && low < high && keep - above > 1;
  }
  int of_range = INT_MIN;
#pragma unroll
  for (int j = 0; j < kPerLane; ++j) {
    if (key[j] <= high) of_range = max(of_range, key[j]);
  }
  of_range = LanesLargest<kLanes>(of_range);
  if (keep - above == 1) low = of_range;
  above = 0;
  uint32_t mask = 0, equals = 0;
#pragma unroll
  for (int j = 0; j < kPerLane; ++j) {
    if (first + j >= experts) continue;
    if (key[j] > low) {
      mask |= 1u << j;
      ++above;
    }
    if (key[j] == low) equals |= 1u << j;
  }
  // Of those equal to the least, the first.
  int left = keep - LanesCount<kLanes>(above);
  const unsigned before = (1u << Lane() % kLanes) - 1;
#pragma unroll
  for (int j = 0; j < kPerLane; ++j) {
    left -= __popc(LanesBallot<kLanes>(equals >> j & 1) & before);
  }
#pragma unroll
  for (int j = 0; j < kPerLane; ++j) {
    if ((equals >> j & 1) && left-- > 0) mask |= 1u << j;
  }
  return mask;
}

// coarse -> who is left, and scores -> attention to those, with zeros behind
// them up to `padded`.
template <int kLanes, int kPerLane>
__device__ __forceinline__ uint32_t FilterToken(const TierGateArgs& a,
                                                const float* bias,
                                                const float* coarse, int padded,
                                                bool there, float* score) {
  const int first = Lane() % kLanes * kPerLane;
  int key[kPerLane];
  float value[kPerLane], whole[kPerLane];
  LoadPart(coarse, first, a.experts, whole);
  LoadPart(score, first, a.experts, value);
#pragma unroll
  for (int j = 0; j < kPerLane; ++j) {
    const int e = first + j;
    key[j] = INT_MIN;
    if (e >= a.experts) continue;
    key[j] = OrderedKey(ShareOf(whole[j]) + (bias != nullptr ? bias[e] : 0));
    value[j] *= a.attention_scale;
  }
  const uint32_t left = KeepLargest<kLanes>(key, first, a.experts, a.keep);
  float largest = -INFINITY;
#pragma unroll
  for (int j = 0; j < kPerLane; ++j) {
    if (left >> j & 1) largest = fmaxf(largest, value[j]);
  }
  largest = LanesMax<kLanes>(largest);
  float sum = 0;
#pragma unroll
  for (int j = 0; j < kPerLane; ++j) {
    value[j] = left >> j & 1 ? expf(value[j] - largest) : 0.f;
    sum += value[j];
  }
  const float inverse = __fdividef(1.f, LanesSum<kLanes>(sum));
#pragma unroll
  for (int j = 0; j < kPerLane; ++j) {
    if (there && first + j < padded) score[first + j] = value[j] * inverse;
  }
  return left;
}

// --- The choice ---

// The `most` largest keys of a token, of equal ones the first first: their
// experts to `order`, what belongs to them to `best`. There are as many above
// INT_MIN; keys that are taken become that, and others move up.
template <int kLanes, int kPerLane>
__device__ __forceinline__ void ListLargest(int (&key)[kPerLane],
                                            float (&p)[kPerLane], int first,
                                            int most, bool there, int* order,
                                            float* best) {
  int expert[kPerLane];
#pragma unroll
  for (int j = 0; j < kPerLane; ++j) expert[j] = first + j;
  SortDescending(key, expert, p);
  // A warp's tokens go round together; a round takes the head of a lane's list.
  const int rounds = __reduce_max_sync(kWholeWarp, most);
#pragma unroll 1
  for (int place = 0; place < rounds; ++place) {
    const int of_all = LanesLargest<kLanes>(key[0]);
    const unsigned equals = LanesBallot<kLanes>(key[0] == of_all);
    const bool is_before =
        (equals & ((1u << Lane() % kLanes) - 1)) != 0;  // Another one is.
    const bool is_next = place < most && key[0] == of_all && !is_before;
    if (is_next && there) {
      order[place] = expert[0];
      best[place] = p[0];
    }
    // No branch: lanes of the other token must not fall behind.
#pragma unroll
    for (int j = 0; j < kPerLane; ++j) {
      const bool is_last = j + 1 == kPerLane;
      const int next = is_last ? j : j + 1;
      key[j] = is_next ? (is_last ? INT_MIN : key[next]) : key[j];
      expert[j] = is_next ? expert[next] : expert[j];
      p[j] = is_next ? p[next] : p[j];
    }
  }
  __syncwarp();
}

// Products of a token with experts (and coarse scores), of those left ->
// probabilities -> the token's row of the results. `count` [E] counts slots of
// the block; `product` and `order` are rows that may be written. Sums of p are
// in double, as the CPU's, in which their order hardly matters.
template <int kLanes, int kPerLane>
__device__ __forceinline__ void SelectToken(const TierGateArgs& a,
                                            const float* bias, float* product,
                                            const float* coarse, uint32_t left,
                                            bool there, int64_t token,
                                            int* order, int* count) {
  const int lane = Lane() % kLanes, first = lane * kPerLane;
  int key[kPerLane];
  float p[kPerLane], whole[kPerLane];
  LoadPart(product, first, a.experts, p);
  LoadPart(coarse, first, a.experts, whole);
  double sum = 0;
  float largest = -INFINITY;
#pragma unroll
  for (int j = 0; j < kPerLane; ++j) {
    key[j] = INT_MIN;
    if ((left >> j & 1) == 0) continue;
    p[j] *= a.affinity_scale;
    if (a.add_coarse) p[j] += whole[j];
    p[j] = ShareOf(p[j]);
    // Above the keys of those that are not left, even if it is NaN.
    key[j] = max(INT_MIN + 1,
                 OrderedKey(p[j] + (bias != nullptr ? bias[first + j] : 0.f)));
    sum += p[j];
    largest = fmaxf(largest, p[j]);
  }
  const int num_left = LanesCount<kLanes>(__popc(left));
  const int listed = min(a.k_max, num_left);
  ListLargest<kLanes>(key, p, first, listed, there, order, product);
  const double enough = a.tau * LanesSum<kLanes>(sum);
  largest = LanesMax<kLanes>(largest);
  const bool stays = num_left > 0 && !(largest < a.exit_threshold);
  const int most = stays ? listed : 0;
  // As many as it takes to have enough, by each lane for itself.
  constexpr int kAtOnce = 8;
  double taken = 0;
  int chosen = 0;
#pragma unroll 1
  for (int begin = 0; begin < most; begin += kAtOnce) {
    float of_place[kAtOnce];
#pragma unroll
    for (int i = 0; i < kAtOnce; ++i) {
      of_place[i] = begin + i < most ? product[begin + i] : 0.f;
    }
    double up_to[kAtOnce + 1];
    up_to[0] = taken;
    bool open = true;
#pragma unroll
    for (int i = 0; i < kAtOnce; ++i) {
      up_to[i + 1] = up_to[i] + of_place[i];
      const int place = begin + i;
      open = open && place < most && (place < a.k_min || !(up_to[i] >= enough));
      if (open) {
        chosen = place + 1;
        taken = up_to[i + 1];
      }
    }
    if (!open) break;
  }
  if (!there) return;
  float factor = a.scale;
  if (a.normalize) {
    constexpr double kSumFloor = 1e-20;
    factor = __fdiv_rn(factor,
                       fmaxf(static_cast<float>(taken + kSumFloor), a.floor));
  }
#pragma unroll 1
  for (int place = lane; place < a.k_max; place += kLanes) {
    const bool taken_here = place < chosen;
    const int e = taken_here ? order[place] : -1;
    a.expert[token * a.k_max + place] = e;
    a.weight[token * a.k_max + place] =
        taken_here ? factor * product[place] : 0.f;
    if (taken_here) atomicAdd(&count[e], 1);
  }
  if (lane == 0) a.stay[token] = stays;
}

}  // namespace strata::gpu

#endif  // CUDA_OPS_GATE_TOKENS_CUH_
