// The largest of many numbers and where it is first, over a block.

#ifndef CUDA_OPS_BEST_CUH_
#define CUDA_OPS_BEST_CUH_

#include <cstdint>

#include "cuda/ops/device.cuh"

namespace strata::gpu {

struct Best {
  float value;
  int64_t index;
};

__device__ __forceinline__ Best Better(Best a, Best b) {
  return b.value > a.value || (b.value == a.value && b.index < a.index) ? b : a;
}

// Of a block of kBlock threads, to all of them. Ends with a barrier.
__device__ inline Best BlockBest(Best best) {
  __shared__ Best warp_best[kWarpsPerBlock];
#pragma unroll
  for (int offset = kWarp / 2; offset > 0; offset /= 2) {
    const Best other = {__shfl_xor_sync(kWholeWarp, best.value, offset),
                        __shfl_xor_sync(kWholeWarp, best.index, offset)};
    best = Better(best, other);
  }
  if (Lane() == 0) warp_best[threadIdx.x / kWarp] = best;
  __syncthreads();
  best = warp_best[0];
#pragma unroll
  for (int w = 1; w < kWarpsPerBlock; ++w) best = Better(best, warp_best[w]);
  __syncthreads();
  return best;
}

}  // namespace strata::gpu

#endif  // CUDA_OPS_BEST_CUH_
