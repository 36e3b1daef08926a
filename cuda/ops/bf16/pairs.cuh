// Columns of F32 or BF16 rows that a warp copies, two at a time where they lie
// so.

#ifndef CUDA_OPS_BF16_PAIRS_CUH_
#define CUDA_OPS_BF16_PAIRS_CUH_

#include <cstdint>

#include "cuda/ops/device.cuh"
#include "cuda_bf16.h"

namespace strata::gpu {

__device__ __forceinline__ float2 LoadPair(const float* from) {
  return *reinterpret_cast<const float2*>(from);
}
__device__ __forceinline__ float2 LoadPair(const __nv_bfloat16* from) {
  return __bfloat1622float2(*reinterpret_cast<const __nv_bfloat162*>(from));
}
__device__ __forceinline__ void StorePair(float2 x, float* to) {
  *reinterpret_cast<float2*>(to) = x;
}
__device__ __forceinline__ void StorePair(float2 x, __nv_bfloat16* to) {
  *reinterpret_cast<__nv_bfloat162*>(to) = __floats2bfloat162_rn(x.x, x.y);
}

// to[c] = from[c] for c below n, by a warp.
template <typename X, typename Y>
__device__ __forceinline__ void CopyColumns(int n, const X* __restrict__ from,
                                            Y* __restrict__ to) {
  const bool in_pairs =
      n % 2 == 0 && reinterpret_cast<uintptr_t>(from) % (2 * sizeof(X)) == 0 &&
      reinterpret_cast<uintptr_t>(to) % (2 * sizeof(Y)) == 0;
  if (in_pairs) {
#pragma unroll 4
    for (int c = 2 * Lane(); c < n; c += 2 * kWarp) {
      StorePair(LoadPair(from + c), to + c);
    }
  } else {
    for (int c = Lane(); c < n; c += kWarp) {
      to[c] = static_cast<Y>(static_cast<float>(from[c]));
    }
  }
}

}  // namespace strata::gpu

#endif  // CUDA_OPS_BF16_PAIRS_CUH_
