// A number as caches in BF16 have it (core/quant/cache_format.h).

#ifndef CUDA_OPS_CACHE_BF16_NUMBER_CUH_
#define CUDA_OPS_CACHE_BF16_NUMBER_CUH_

#include <cmath>

#include "cuda_bf16.h"

namespace strata::gpu {

// What is not finite is no number.
__device__ __forceinline__ __nv_bfloat16 CachedBf16(float x) {
  return isfinite(x) ? __float2bfloat16_rn(x) : __ushort_as_bfloat16(0x7FC0);
}

}  // namespace strata::gpu

#endif  // CUDA_OPS_CACHE_BF16_NUMBER_CUH_
