// A warpgroup's result in registers (sm90_product.cuh) to rows in memory.

#ifndef CUDA_KERNELS_STORE_ROWS_CUH_
#define CUDA_KERNELS_STORE_ROWS_CUH_

#include <cstdint>

#include "cuda/kernels/sm90.cuh"
#include "cuda_bf16.h"

namespace strata::gpu {

#if STRATA_SM90A

// Two floats, rounded, the first low: as products take them from registers.
__device__ __forceinline__ uint32_t Pair(float x, float y) {
  const __nv_bfloat162 pair = __floats2bfloat162_rn(x, y);
  return *reinterpret_cast<const uint32_t*>(&pair);
}

// Four lanes that hold a word of each of four groups: lane i gets all of group
// i.
__device__ __forceinline__ void Transpose4(uint32_t (&word)[4]) {
  const int lane = threadIdx.x % 4;
#pragma unroll
  for (int d = 1; d <= 2; d *= 2) {
    const bool upper = (lane & d) != 0;
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      if (i & d) continue;
      const uint32_t sent = upper ? word[i] : word[i + d];
      const uint32_t got = __shfl_xor_sync(0xffffffff, sent, d);
      word[i] = upper ? got : word[i];
      word[i + d] = upper ? word[i + d] : got;
    }
  }
}

// The warpgroup's 64 rows times factor[0] (its thread's upper row) or
// factor[1], of which `rows` are there, and the first `columns`, a multiple of
// 8; `to` is its first. BF16 goes in pieces of 16 bytes, F32 of 8: both fill
// the sectors of 32 bytes they touch.
template <int n, typename Y>
__device__ __forceinline__ void StoreRows(const float (&d)[n / 2],
                                          const float (&factor)[2], int rows,
                                          int columns, Y* to, int64_t pitch) {
  const int thread = threadIdx.x % kWarpgroup, lane = thread % 4;
  const int first = thread / 32 * 16 + thread % 32 / 4;
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const int row = first + 8 * half;
    const float f = factor[half];
    Y* const line = to + row * pitch;
    if constexpr (sizeof(Y) == 4) {
#pragma unroll
      for (int g = 0; g < n / 8; ++g) {
        if (row < rows && g * 8 < columns) {
          *reinterpret_cast<float2*>(line + g * 8 + lane * 2) = {
              f * d[4 * g + 2 * half], f * d[4 * g + 2 * half + 1]};
        }
      }
    } else {
#pragma unroll
      for (int g = 0; g < n / 8; g += 4) {
        uint32_t word[4];
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          word[i] = Pair(f * d[4 * (g + i) + 2 * half],
                         f * d[4 * (g + i) + 2 * half + 1]);
        }
        Transpose4(word);
        if (row < rows && (g + lane) * 8 < columns) {
          *reinterpret_cast<uint4*>(line + (g + lane) * 8) = {word[0], word[1],
                                                              word[2], word[3]};
        }
      }
    }
  }
}

#endif  // STRATA_SM90A

}  // namespace strata::gpu

#endif  // CUDA_KERNELS_STORE_ROWS_CUH_
