// Eight elements of a row, F32 or BF16 in memory, as floats in registers.

#ifndef CUDA_OPS_BF16_EIGHT_CUH_
#define CUDA_OPS_BF16_EIGHT_CUH_

#include <cstdint>

#include "cuda/ops/vector16.cuh"
#include "cuda_bf16.h"

namespace strata::gpu {

// Addresses are aligned to 16 bytes.
__device__ __forceinline__ void Load8(const __nv_bfloat16* from,
                                      float (&x)[8]) {
  Unpack(*reinterpret_cast<const uint4*>(from), x);
}
__device__ __forceinline__ void Load8(const float* from, float (&x)[8]) {
  const float4 a = reinterpret_cast<const float4*>(from)[0];
  const float4 b = reinterpret_cast<const float4*>(from)[1];
  x[0] = a.x, x[1] = a.y, x[2] = a.z, x[3] = a.w;
  x[4] = b.x, x[5] = b.y, x[6] = b.z, x[7] = b.w;
}

// To the nearest, ties to even.
__device__ __forceinline__ void Store8(const float (&x)[8], __nv_bfloat16* to) {
  *reinterpret_cast<uint4*>(to) = Pack(x);
}
__device__ __forceinline__ void Store8(const float (&x)[8], float* to) {
  reinterpret_cast<float4*>(to)[0] = {x[0], x[1], x[2], x[3]};
  reinterpret_cast<float4*>(to)[1] = {x[4], x[5], x[6], x[7]};
}

}  // namespace strata::gpu

#endif  // CUDA_OPS_BF16_EIGHT_CUH_
