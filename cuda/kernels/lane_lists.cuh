// A lane's few numbers in order, in registers: of many lanes' lists the largest
// numbers are found head by head, each in a few instructions.

#ifndef CUDA_KERNELS_LANE_LISTS_CUH_
#define CUDA_KERNELS_LANE_LISTS_CUH_

namespace strata::gpu {

template <typename T>
__device__ __forceinline__ void Exchange(bool does, T& a, T& b) {
  const T first = does ? b : a;
  b = does ? a : b;
  a = first;
}

// Sorts by key, the largest first, equal ones as they were, and what belongs to
// the keys alike. n (n - 1) / 2 exchanges without branches.
template <int n, typename Key, typename... Others>
__device__ __forceinline__ void SortDescending(Key (&key)[n],
                                               Others (&... others)[n]) {
#pragma unroll
  for (int end = n - 1; end > 0; --end) {
#pragma unroll
    for (int i = 0; i < end; ++i) {
      const bool does = key[i] < key[i + 1];
      Exchange(does, key[i], key[i + 1]);
      (Exchange(does, others[i], others[i + 1]), ...);
    }
  }
}

}  // namespace strata::gpu

#endif  // CUDA_KERNELS_LANE_LISTS_CUH_
