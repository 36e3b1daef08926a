// Four columns of a row, F32 or BF16 in memory as the host says at run time, as
// a lane holds them.

#ifndef CUDA_OPS_RESIDUAL_ROW_QUADS_CUH_
#define CUDA_OPS_RESIDUAL_ROW_QUADS_CUH_

#include <cstdint>

#include "cuda/ops/bf16/either_rows.h"
#include "cuda/ops/vector16.cuh"
#include "cuda_bf16.h"

namespace strata::gpu {

// kWhole: rows are whole quads, aligned to them; otherwise columns come one by
// one, `left` of them from `at` on, and those that are not there are 0.
//
// What was loaded is unpacked later, so that loads do not wait for each other.
template <bool kWhole>
__device__ __forceinline__ uint4 LoadQuad(const EitherRows& from, int64_t at,
                                          int left) {
  if constexpr (kWhole) {
    if (from.is_bf16) {
      const uint2 half = __ldg(reinterpret_cast<const uint2*>(
          static_cast<const __nv_bfloat16*>(from.data) + at));
      return {half.x, half.y, 0, 0};
    }
    return __ldg(reinterpret_cast<const uint4*>(
        static_cast<const float*>(from.data) + at));
  } else {
    float x[4] = {};
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      if (i >= left) break;
      x[i] = from.is_bf16
                 ? __bfloat162float(
                       static_cast<const __nv_bfloat16*>(from.data)[at + i])
                 : __ldg(static_cast<const float*>(from.data) + at + i);
    }
    return Pack(x);
  }
}

template <bool kWhole>
__device__ __forceinline__ void UnpackQuad(const EitherRows& from, uint4 raw,
                                           float (&x)[4]) {
  if (kWhole && from.is_bf16) {
    // A bfloat16 is the upper half of a float; the first of a pair lies low.
    x[0] = __uint_as_float(raw.x << 16);
    x[1] = __uint_as_float(raw.x & 0xffff0000);
    x[2] = __uint_as_float(raw.y << 16);
    x[3] = __uint_as_float(raw.y & 0xffff0000);
  } else {
    Unpack(raw, x);
  }
}

// BF16 to the nearest, ties to even.
template <bool kWhole>
__device__ __forceinline__ void StoreQuad(const float (&x)[4],
                                          const EitherRows& to, int64_t at,
                                          int left) {
  if constexpr (kWhole) {
    if (to.is_bf16) {
      const __nv_bfloat162 low = __floats2bfloat162_rn(x[0], x[1]);
      const __nv_bfloat162 high = __floats2bfloat162_rn(x[2], x[3]);
      *reinterpret_cast<uint2*>(static_cast<__nv_bfloat16*>(to.data) + at) = {
          *reinterpret_cast<const uint32_t*>(&low),
          *reinterpret_cast<const uint32_t*>(&high)};
    } else {
      *reinterpret_cast<uint4*>(static_cast<float*>(to.data) + at) = Pack(x);
    }
  } else {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      if (i >= left) break;
      if (to.is_bf16) {
        static_cast<__nv_bfloat16*>(to.data)[at + i] = __float2bfloat16(x[i]);
      } else {
        static_cast<float*>(to.data)[at + i] = x[i];
      }
    }
  }
}

}  // namespace strata::gpu

#endif  // CUDA_OPS_RESIDUAL_ROW_QUADS_CUH_
