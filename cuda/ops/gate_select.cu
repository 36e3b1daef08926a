#include <cstdint>

#include "cuda/ops/device.cuh"
#include "cuda/ops/gate_select.h"
#include "cuda/runtime/kernel.h"

namespace strata::gpu {
namespace {

// --- The order of scores ---

// Experts of a row that a warp's share of shared memory holds.
constexpr int kMaxExperts = 512;
constexpr int kMaxChosen = 64;
constexpr int kRowsPerBlock = 4;  // Warps of a block of these kernels.
constexpr int kThreads = kRowsPerBlock * kWarp;

// A score and its index as one integer: the better candidate is the larger. Of
// equal scores the lower index is better, -0 equals 0, NaN is below all else.
__device__ int64_t MakeCandidate(float score, int64_t index) {
  score += 0.f;  // -0 becomes 0.
  int32_t key = __float_as_int(score);
  if (key < 0) key ^= INT32_MAX;
  if (isnan(score)) key = INT32_MIN;
  return int64_t{key} * (int64_t{1} << 32) + (INT32_MAX - index);
}
__device__ int32_t IndexOf(int64_t candidate) {
  return INT32_MAX - static_cast<int32_t>(static_cast<uint32_t>(candidate));
}

// Below every candidate: what is not offered.
constexpr int64_t kNoCandidate = INT64_MIN;

// How many of the n candidates are better than `mine`. By each lane for itself.
__device__ int RankOf(const int64_t* candidates, int n, int64_t mine) {
  int better = 0;
  for (int i = 0; i < n; ++i) better += candidates[i] > mine;
  return better;
}

// list[0 .. k) = the best k of n candidates, best first, kNoCandidate where
// there are fewer. By a warp.
__device__ void SortBest(const int64_t* candidates, int n, int k,
                         int64_t* list) {
  for (int j = Lane(); j < k; j += kWarp) list[j] = kNoCandidate;
  __syncwarp();
  for (int i = Lane(); i < n; i += kWarp) {
    if (candidates[i] == kNoCandidate) continue;
    const int rank = RankOf(candidates, n, candidates[i]);
    if (rank < k) list[rank] = candidates[i];
  }
  __syncwarp();
}

__device__ float BiasedScore(const float* score, const float* bias, int64_t e) {
  return score[e] + (bias != nullptr ? bias[e] : 0.f);
}

unsigned RowBlocks(int64_t rows) {
  return static_cast<unsigned>(
      std::clamp<int64_t>(CeilDiv(rows, kRowsPerBlock), 1, kMaxBlocks));
}

// --- Kernels: a warp a row ---

__global__ void __launch_bounds__(kThreads)
    CoarseFilterKernel(Extent rows, int experts, int keep, const float* score,
                       const float* bias, uint8_t* mask) {
  __shared__ int64_t candidates_of[kRowsPerBlock][kMaxExperts];
  int64_t* const candidates = candidates_of[threadIdx.x / kWarp];
  const int64_t t = rows.Get();
  for (int64_t i = FirstRow(); i < t; i += RowStride()) {
    for (int e = Lane(); e < experts; e += kWarp) {
      candidates[e] =
          MakeCandidate(BiasedScore(score + i * experts, bias, e), e);
    }
    __syncwarp();
    for (int e = Lane(); e < experts; e += kWarp) {
      mask[i * experts + e] = RankOf(candidates, experts, candidates[e]) < keep;
    }
    __syncwarp();
  }
}

cudaError_t RunCoarseFilter(const KernelContext& ctx) {
  const Operand& score = ctx.in(0);
  if (score.dim(1) > kMaxExperts) return ctx.Refuse("more than 512 experts");
  CoarseFilterKernel<<<RowBlocks(score.dim(0)), kThreads, 0, ctx.stream>>>(
      score.rows(), static_cast<int>(score.dim(1)),
      static_cast<int>(ctx.Int("keep")), score.as<float>(),
      ctx.has(1) ? ctx.in(1).as<float>() : nullptr, ctx.out(0).as<uint8_t>());
  return cudaGetLastError();
}

struct AdaptiveArgs {
  Extent rows;
  int experts = 0, k_min = 1, k_max = 1;
  double tau = 0, exit_threshold = 0;
  const float* tau_value = nullptr;  // In place of tau, if given.
  const float* p = nullptr;
  const uint8_t* mask = nullptr;
  const float* bias = nullptr;
  int32_t* expert = nullptr;
  uint8_t* stay = nullptr;
};

// Sums run in the order of the CPU's, by one lane: where a share just passes
// tau, another order would choose otherwise.
__global__ void __launch_bounds__(kThreads)
    AdaptiveSelectKernel(const AdaptiveArgs args) {
  __shared__ int64_t candidates_of[kRowsPerBlock][kMaxExperts];
  __shared__ int64_t list_of[kRowsPerBlock][kMaxChosen];
  __shared__ float p_of[kRowsPerBlock][kMaxExperts];
  const int warp = threadIdx.x / kWarp;
  int64_t* const candidates = candidates_of[warp];
  int64_t* const list = list_of[warp];
  float* const p = p_of[warp];
  const int64_t t = args.rows.Get();
  const int experts = args.experts, k_max = args.k_max;
  const double tau = args.tau_value != nullptr
                         ? static_cast<double>(*args.tau_value)
                         : args.tau;
  for (int64_t i = FirstRow(); i < t; i += RowStride()) {
    for (int e = Lane(); e < experts; e += kWarp) {
      p[e] = args.p[i * experts + e];
      const bool survives =
          args.mask == nullptr || args.mask[i * experts + e] != 0;
      candidates[e] = survives ? MakeCandidate(BiasedScore(p, args.bias, e), e)
                               : kNoCandidate;
    }
    __syncwarp();
    SortBest(candidates, experts, k_max, list);
    if (Lane() == 0) {
      double sum = 0, largest = -INFINITY;
      for (int e = 0; e < experts; ++e) {
        if (candidates[e] == kNoCandidate) continue;
        sum += p[e];
        if (p[e] > largest) largest = p[e];
      }
      const bool stays =
          list[0] != kNoCandidate && !(largest < args.exit_threshold);
      args.stay[i] = stays;
      double taken = 0;
      bool open = stays;
      for (int j = 0; j < k_max; ++j) {
        open = open && list[j] != kNoCandidate &&
               !(j >= args.k_min && taken >= tau * sum);
        const int32_t chosen = open ? IndexOf(list[j]) : -1;
        args.expert[i * k_max + j] = chosen;
        if (open) taken += p[chosen];
      }
    }
    __syncwarp();
  }
}

cudaError_t RunAdaptiveSelect(const KernelContext& ctx) {
  const Operand& p = ctx.in(0);
  AdaptiveArgs args;
  args.rows = p.rows();
  args.experts = static_cast<int>(p.dim(1));
  args.k_min = static_cast<int>(ctx.Int("k_min"));
  args.k_max = static_cast<int>(ctx.Int("k_max"));
  args.tau = ctx.Double("tau");
  args.exit_threshold = ctx.Double("exit_threshold");
  if (args.experts > kMaxExperts) return ctx.Refuse("more than 512 experts");
  if (args.k_max > kMaxChosen) return ctx.Refuse("k_max of more than 64");
  args.p = p.as<float>();
  if (ctx.has(1)) args.mask = ctx.in(1).as<uint8_t>();
  if (ctx.has(2)) args.bias = ctx.in(2).as<float>();
  if (ctx.has(3)) args.tau_value = ctx.in(3).as<float>();
  args.expert = ctx.out(0).as<int32_t>();
  args.stay = ctx.out(1).as<uint8_t>();
  AdaptiveSelectKernel<<<RowBlocks(p.dim(0)), kThreads, 0, ctx.stream>>>(args);
  return cudaGetLastError();
}

struct TopKArgs {
  Extent rows;
  int experts = 0, k = 1, num_groups = 1, top_groups = 1, counted = 1;
  const float* score = nullptr;
  const float* bias = nullptr;
  int32_t* expert = nullptr;
};

__global__ void __launch_bounds__(kThreads) TopKSelectKernel(TopKArgs args) {
  __shared__ int64_t candidates_of[kRowsPerBlock][kMaxExperts];
  __shared__ int64_t groups_of[kRowsPerBlock][kMaxChosen];
  __shared__ int64_t list_of[kRowsPerBlock][kMaxChosen];
  const int warp = threadIdx.x / kWarp;
  int64_t* const candidates = candidates_of[warp];
  int64_t* const groups = groups_of[warp];
  int64_t* const list = list_of[warp];
  const int64_t t = args.rows.Get();
  const int experts = args.experts, width = experts / args.num_groups;
  for (int64_t i = FirstRow(); i < t; i += RowStride()) {
    const float* const row = args.score + i * experts;
    for (int e = Lane(); e < experts; e += kWarp) {
      candidates[e] = MakeCandidate(BiasedScore(row, args.bias, e), e);
    }
    __syncwarp();
    if (args.top_groups < args.num_groups) {
      // A group counts as the sum of its best one or two; a lane a group.
      for (int g = Lane(); g < args.num_groups; g += kWarp) {
        int64_t first = kNoCandidate, second = kNoCandidate;
        for (int e = g * width; e < (g + 1) * width; ++e) {
          const int64_t c = candidates[e];
          if (c > first) {
            second = first;
            first = c;
          } else if (c > second) {
            second = c;
          }
        }
        float sum = BiasedScore(row, args.bias, IndexOf(first));
        if (args.counted > 1) {
          sum += BiasedScore(row, args.bias, IndexOf(second));
        }
        groups[g] = MakeCandidate(sum, g);
      }
      __syncwarp();
      for (int e = Lane(); e < experts; e += kWarp) {
        if (RankOf(groups, args.num_groups, groups[e / width]) >=
            args.top_groups) {
          candidates[e] = kNoCandidate;
        }
      }
      __syncwarp();
    }
    SortBest(candidates, experts, args.k, list);
    for (int j = Lane(); j < args.k; j += kWarp) {
      args.expert[i * args.k + j] = IndexOf(list[j]);
    }
    __syncwarp();
  }
}

// The best column of a row of any width, by a block: what a greedy choice among
// a vocabulary is. Of one row, a block is all there is: so it has many loads on
// their way.
constexpr int kBestThreads = 1024;
__global__ void __launch_bounds__(kBestThreads)
    BestColumnKernel(Extent rows, int64_t columns, const float* score,
                     const float* bias, int32_t* best) {
  __shared__ int64_t best_of[kBestThreads / kWarp];
  const int64_t t = rows.Get();
  const bool wide = columns % 4 == 0 && bias == nullptr &&
                    reinterpret_cast<uintptr_t>(score) % sizeof(float4) == 0;
  for (int64_t i = blockIdx.x; i < t; i += gridDim.x) {
    const float* const row = score + i * columns;
    int64_t mine = kNoCandidate;
    if (wide) {
#pragma unroll 8
      for (int64_t c = threadIdx.x; c < columns / 4; c += kBestThreads) {
        const float4 v = reinterpret_cast<const float4*>(row)[c];
        mine = max(mine, MakeCandidate(v.x, 4 * c));
        mine = max(mine, MakeCandidate(v.y, 4 * c + 1));
        mine = max(mine, MakeCandidate(v.z, 4 * c + 2));
        mine = max(mine, MakeCandidate(v.w, 4 * c + 3));
      }
    } else {
#pragma unroll 8
      for (int64_t c = threadIdx.x; c < columns; c += kBestThreads) {
        mine = max(mine, MakeCandidate(BiasedScore(row, bias, c), c));
      }
    }
#pragma unroll
    for (int d = kWarp / 2; d > 0; d /= 2) {
      mine = max(mine, __shfl_xor_sync(kWholeWarp, mine, d));
    }
    if (Lane() == 0) best_of[threadIdx.x / kWarp] = mine;
    __syncthreads();
    if (threadIdx.x == 0) {
      for (const int64_t other : best_of) mine = max(mine, other);
      best[i] = IndexOf(mine);
    }
    __syncthreads();
  }
}

}  // namespace

cudaError_t RunTopKSelect(const KernelContext& ctx) {
  const Operand& score = ctx.in(0);
  if (score.dim(1) > kMaxExperts && ctx.Int("k") == 1 &&
      ctx.Int("top_groups") == ctx.Int("num_groups") &&
      score.dim(1) < INT32_MAX) {
    const auto blocks =
        static_cast<unsigned>(std::clamp<int64_t>(score.dim(0), 1, kMaxBlocks));
    BestColumnKernel<<<blocks, kBestThreads, 0, ctx.stream>>>(
        score.rows(), score.dim(1), score.as<float>(),
        ctx.has(1) ? ctx.in(1).as<float>() : nullptr, ctx.out(0).as<int32_t>());
    return cudaGetLastError();
  }
  TopKArgs args;
  args.rows = score.rows();
  args.experts = static_cast<int>(score.dim(1));
  args.k = static_cast<int>(ctx.Int("k"));
  args.num_groups = static_cast<int>(ctx.Int("num_groups"));
  args.top_groups = static_cast<int>(ctx.Int("top_groups"));
  const bool one = ctx.Int("group_max") != 0 || args.experts == args.num_groups;
  args.counted = one ? 1 : 2;
  if (args.experts > kMaxExperts) return ctx.Refuse("more than 512 experts");
  if (args.k > kMaxChosen) return ctx.Refuse("k of more than 64");
  if (args.top_groups < args.num_groups && args.num_groups > kMaxChosen) {
    return ctx.Refuse("more than 64 groups");
  }
  args.score = score.as<float>();
  if (ctx.has(1)) args.bias = ctx.in(1).as<float>();
  args.expert = ctx.out(0).as<int32_t>();
  TopKSelectKernel<<<RowBlocks(score.dim(0)), kThreads, 0, ctx.stream>>>(args);
  return cudaGetLastError();
}

namespace {

// --- Expert choice ---

// taken[i, e]: whether expert e, a block, takes token i. The least candidate
// that it takes is found bit by bit from the highest: of all numbers, the
// largest that at least `capacity` candidates reach.
__global__ void __launch_bounds__(kBlock)
    TakeTokensKernel(Extent rows, int experts, int64_t k, const float* score,
                     uint8_t* taken) {
  const int64_t t = rows.Get();
  const int e = blockIdx.x;
  const int64_t capacity = (t * k + experts - 1) / experts;
  // Moved so that the order of signed numbers is that of unsigned ones.
  const auto key = [&](int64_t i) {
    return static_cast<uint64_t>(MakeCandidate(score[i * experts + e], i)) ^
           (uint64_t{1} << 63);
  };
  uint64_t least = 0;
  for (int bit = 63; bit >= 0 && capacity > 0; --bit) {
    const uint64_t trial = least | (uint64_t{1} << bit);
    int reach = 0;
    for (int64_t i = threadIdx.x; i < t; i += kBlock) reach += key(i) >= trial;
    if (BlockSum(reach) >= capacity) least = trial;
  }
  for (int64_t i = threadIdx.x; i < t; i += kBlock) {
    taken[i * experts + e] = capacity > 0 && key(i) >= least;
  }
}

// The experts that took a token, best first.
__global__ void __launch_bounds__(kThreads)
    ListTakersKernel(Extent rows, int experts, const float* score,
                     const uint8_t* taken, int32_t* out) {
  __shared__ int64_t candidates_of[kRowsPerBlock][kMaxExperts];
  __shared__ int64_t list_of[kRowsPerBlock][kMaxExperts];
  int64_t* const candidates = candidates_of[threadIdx.x / kWarp];
  int64_t* const list = list_of[threadIdx.x / kWarp];
  const int64_t t = rows.Get();
  for (int64_t i = FirstRow(); i < t; i += RowStride()) {
    for (int e = Lane(); e < experts; e += kWarp) {
      candidates[e] = taken[i * experts + e] != 0
                          ? MakeCandidate(score[i * experts + e], e)
                          : kNoCandidate;
    }
    __syncwarp();
    SortBest(candidates, experts, experts, list);
    for (int j = Lane(); j < experts; j += kWarp) {
      out[i * experts + j] = list[j] != kNoCandidate ? IndexOf(list[j]) : -1;
    }
    __syncwarp();
  }
}

cudaError_t RunExpertChoice(const KernelContext& ctx) {
  const Operand& score = ctx.in(0);
  const auto experts = static_cast<int>(score.dim(1));
  if (experts > kMaxExperts) return ctx.Refuse("more than 512 experts");
  auto* const taken = ctx.Take<uint8_t>(score.max_elements());
  if (taken == nullptr) return cudaErrorMemoryAllocation;
  TakeTokensKernel<<<experts, kBlock, 0, ctx.stream>>>(
      score.rows(), experts, ctx.Int("k"), score.as<float>(), taken);
  ListTakersKernel<<<RowBlocks(score.dim(0)), kThreads, 0, ctx.stream>>>(
      score.rows(), experts, score.as<float>(), taken,
      ctx.out(0).as<int32_t>());
  return cudaGetLastError();
}

__global__ void __launch_bounds__(kBlock)
    BalancedSelectKernel(Extent rows, int64_t k, int64_t experts,
                         int32_t* expert) {
  const int64_t slots = rows.Get() * k;
  for (int64_t s = FirstElement(); s < slots; s += ElementStride()) {
    expert[s] = static_cast<int32_t>(s % experts);
  }
}

cudaError_t RunBalancedSelect(const KernelContext& ctx) {
  const Operand& score = ctx.in(0);
  const int64_t k = ctx.Int("k");
  BalancedSelectKernel<<<BlocksFor(score.dim(0) * k), kBlock, 0, ctx.stream>>>(
      score.rows(), k, score.dim(1), ctx.out(0).as<int32_t>());
  return cudaGetLastError();
}

}  // namespace

void RegisterGateSelectKernels(KernelRegistry& kernels) {
  kernels.Register("CoarseFilter", RunCoarseFilter);
  kernels.Register("AdaptiveSelect", RunAdaptiveSelect);
  kernels.Register("TopKSelect", RunTopKSelect);
  kernels.Register("ExpertChoice", RunExpertChoice);
  kernels.Register("BalancedSelect", RunBalancedSelect);
}

}  // namespace strata::gpu
