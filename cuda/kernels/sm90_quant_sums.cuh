// Sums of blocks of a cluster that share what is summed over, to those that
// join them: each, or the first of them, has a share of a tile's rows of x,
// eight at a time, and each thread sends its sums, four of an eight, to the
// same thread's places there.

#ifndef CUDA_KERNELS_SM90_QUANT_SUMS_CUH_
#define CUDA_KERNELS_SM90_QUANT_SUMS_CUH_

#include <cstdint>

#include "cuda/kernels/quant_store.cuh"
#include "cuda/kernels/resident_plan.h"
#include "cuda/kernels/row_tiles.cuh"
#include "cuda/kernels/sm90.cuh"
#include "cuda/kernels/sm90_send.cuh"

namespace strata::gpu {

#if STRATA_SM90A

// A thread's sums of eight `i`: of rows of x 8 i + 2 t and the next, t being
// threadIdx.x % 4, by each of its two rows of w.
template <int n>
__device__ __forceinline__ float4 FourOf(const float (&total)[n], int i) {
  return {total[4 * i], total[4 * i + 1], total[4 * i + 2], total[4 * i + 3]};
}

// The first of the two rows of x of an eight.
__device__ __forceinline__ int RowOfEight(int eight) {
  return eight * 8 + static_cast<int>(threadIdx.x) % 4 * 2;
}

// Where other blocks' sums lie in shared memory, and what says that all are
// there: [other block][eight of the share][thread], of which `thread` is this
// one. A block's own stay in registers.
template <int kThreads>
struct ClusterSums {
  float4* sums;
  uint64_t* joined;
  int thread;

  // By each thread: its sums to the other blocks of the cluster, of which
  // `split` is this one.
  template <int kSplits, int n>
  __device__ __forceinline__ void Send(const float (&total)[n],
                                       int split) const {
    constexpr int kJoin = BlocksThatJoin(kSplits, n / 4);
    constexpr int kShare = n / 4 / kJoin;
#pragma unroll
    for (int to = 0; to < kJoin; ++to) {
      if (to == split) continue;
      float4* const at =
          sums + (split - (split > to ? 1 : 0)) * kShare * kThreads + thread;
#pragma unroll
      for (int i = 0; i < kShare; ++i) {
        StoreFourTo(at + i * kThreads, joined, static_cast<uint32_t>(to),
                    FourOf(total, to * kShare + i));
      }
    }
  }

  // By a block that joins: waits for all, and calls run(i, four) for eight i of
  // its share, of what all blocks have of it, added up in their order.
  template <int kSplits, int n, typename Run>
  __device__ __forceinline__ void Join(const float (&total)[n], int split,
                                       Run run) const {
    constexpr int kShare = n / 4 / BlocksThatJoin(kSplits, n / 4);
    Wait(joined, 0);
#pragma unroll
    for (int i = 0; i < kShare; ++i) {
      float4 sum = {0, 0, 0, 0};
#pragma unroll
      for (int s = 0; s < kSplits; ++s) {
        const int other = min(s - (s > split ? 1 : 0), kSplits - 2);
        float4 v = sums[(other * kShare + i) * kThreads + thread];
        if (s == split) v = FourOf(total, s * kShare + i);
        sum.x += v.x, sum.y += v.y, sum.z += v.z, sum.w += v.w;
      }
      run(i, sum);
    }
  }
};

#endif  // STRATA_SM90A

}  // namespace strata::gpu

#endif  // CUDA_KERNELS_SM90_QUANT_SUMS_CUH_
