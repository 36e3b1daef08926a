#include <cmath>
#include <cstdint>

#include "cuda/kernels/ahead.cuh"
#include "cuda/ops/decode/choose_experts.h"
#include "cuda/ops/device.cuh"

namespace strata::gpu {
namespace {

constexpr int kMaxTokens = kWarpsPerBlock;
constexpr int kMaxExperts = 256;
constexpr int kMaxChosen = kWarp;
constexpr int kPerLane = kMaxExperts / kWarp;
constexpr float kSumFloor = 1e-20f;  // As SelectedWeight's.

// A score as an integer that is larger where the score is: -0 equals 0, and NaN
// is below all else.
__device__ __forceinline__ uint32_t KeyOf(float score) {
  score += 0.f;
  int32_t key = __float_as_int(score);
  if (key < 0) key ^= INT32_MAX;
  if (isnan(score)) key = INT32_MIN + 1;
  return static_cast<uint32_t>(key) ^ 0x80000000u;
}

// One block, a warp a token; lane l has experts l, l + 32, ...
__global__ void __launch_bounds__(kBlock)
    ChooseKernel(const ChooseExpertsArgs a) {
  __shared__ int chosen_of[kMaxTokens * kMaxChosen];
  __shared__ int active_of[kWarpsPerBlock];
  WaitForEarlier();
  LetLaterBegin();
  const int tokens = static_cast<int>(a.tokens.Get());
  const int token = static_cast<int>(threadIdx.x) / kWarp, lane = Lane();
  if (token < tokens) {
    float p[kPerLane];
    float largest = -INFINITY;
#pragma unroll
    for (int i = 0; i < kPerLane; ++i) {
      const int e = i * kWarp + lane;
      p[i] = e < a.num_experts ? a.logits[int64_t{token} * a.num_experts + e]
                               : -INFINITY;
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
    uint32_t key[kPerLane];  // 0: not offered, or taken.
#pragma unroll
    for (int i = 0; i < kPerLane; ++i) {
      const int e = i * kWarp + lane;
      p[i] = a.softmax ? p[i] / sum : SigmoidOf(p[i]);
      key[i] = 0;
      if (e < a.num_experts) {
        key[i] = KeyOf(p[i] + (a.bias != nullptr ? a.bias[e] : 0.f));
      }
    }
    int choice = -1;  // Of rank `lane`, and its p.
    float choice_p = 0;
    for (int j = 0; j < a.k; ++j) {
      uint32_t best = 0;
#pragma unroll
      for (int i = 0; i < kPerLane; ++i) best = max(best, key[i]);
      best = __reduce_max_sync(kWholeWarp, best);
      unsigned first = UINT32_MAX;  // Of equal scores, the first expert.
#pragma unroll
      for (int i = kPerLane - 1; i >= 0; --i) {
        if (key[i] == best) first = i * kWarp + lane;
      }
      first = __reduce_min_sync(kWholeWarp, first);
      float value = 0;
#pragma unroll
      for (int i = 0; i < kPerLane; ++i) {
        if (i * kWarp + lane == static_cast<int>(first)) {
          value = p[i];
          key[i] = 0;
        }
      }
      value = __shfl_sync(kWholeWarp, value, first % kWarp);
      if (lane == j) {
        choice = static_cast<int>(first);
        choice_p = value;
      }
    }
    float divisor = 1;
    if (a.normalize) {
      divisor = fmaxf(kSumFloor + WarpSum(choice_p), a.floor);
    }
    if (lane < a.k) {
      a.expert[token * a.k + lane] = choice;
      a.weight[token * a.k + lane] = a.scale / divisor * choice_p;
      chosen_of[token * a.k + lane] = choice;
    }
  }
  __syncthreads();
  // Thread e counts for expert e; experts are at most as many as threads.
  const int slots = tokens * a.k, e = static_cast<int>(threadIdx.x);
  int before = 0, mine = 0;
  for (int s = 0; s < slots; ++s) {
    before += chosen_of[s] < e;
    mine += chosen_of[s] == e;
  }
  if (e < a.num_experts) a.offset[e] = before;
  if (e == 0) {
    a.offset[a.num_experts] = slots;
    *a.rows = slots;
  }
  if (a.active == nullptr) return;
  const unsigned ballot = __ballot_sync(kWholeWarp, mine > 0);
  if (lane == 0) active_of[threadIdx.x / kWarp] = __popc(ballot);
  __syncthreads();
  int at = __popc(ballot & ((1u << lane) - 1)), all = 0;
#pragma unroll
  for (int w = 0; w < kWarpsPerBlock; ++w) {
    at += w < static_cast<int>(threadIdx.x) / kWarp ? active_of[w] : 0;
    all += active_of[w];
  }
  if (e == 0) *a.num_active = all;
  if (mine == 0) return;
  a.active[at] = e;
  for (int t = 0; t < kMaxTokens; ++t) {
    int slot = -1;
    for (int j = 0; t < tokens && j < a.k; ++j) {
      if (chosen_of[t * a.k + j] == e) slot = j;
    }
    a.pick[at * kMaxTokens + t] = slot;
  }
}

}  // namespace

bool HasChooseExperts(const ChooseExpertsArgs& args) {
  return args.tokens.bound <= kMaxTokens && args.num_experts <= kMaxExperts &&
         args.k <= kMaxChosen && args.k <= args.num_experts;
}

cudaError_t ChooseExperts(const ChooseExpertsArgs& args, cudaStream_t stream) {
  if (!HasChooseExperts(args)) return cudaErrorInvalidValue;
  return LaunchAhead(ChooseKernel, dim3(1), dim3(kBlock), 0, stream, args);
}

}  // namespace strata::gpu
