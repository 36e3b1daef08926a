// Elements as a kernel moves them: 16 bytes at a time, the widest access that a
// thread has; sums and products are done in float.

#ifndef CUDA_OPS_VECTOR16_CUH_
#define CUDA_OPS_VECTOR16_CUH_

#include <cstdint>
#include <type_traits>

#include "cuda_bf16.h"

namespace strata::gpu {

// Elements in 16 bytes.
template <typename Element>
constexpr int kVector = 16 / sizeof(Element);

inline __device__ void Unpack(uint4 raw, float (&element)[4]) {
  element[0] = __uint_as_float(raw.x);
  element[1] = __uint_as_float(raw.y);
  element[2] = __uint_as_float(raw.z);
  element[3] = __uint_as_float(raw.w);
}

// A bfloat16 is the upper half of a float; the first of a pair lies low.
inline __device__ void Unpack(uint4 raw, float (&element)[8]) {
  const uint32_t pair[4] = {raw.x, raw.y, raw.z, raw.w};
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    element[2 * i] = __uint_as_float(pair[i] << 16);
    element[2 * i + 1] = __uint_as_float(pair[i] & 0xffff0000);
  }
}

inline __device__ uint4 Pack(const float (&element)[4]) {
  return {__float_as_uint(element[0]), __float_as_uint(element[1]),
          __float_as_uint(element[2]), __float_as_uint(element[3])};
}

inline __device__ uint4 Pack(const float (&element)[8]) {
  uint32_t pair[4];
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const __nv_bfloat162 rounded =
        __floats2bfloat162_rn(element[2 * i], element[2 * i + 1]);
    pair[i] = *reinterpret_cast<const uint32_t*>(&rounded);
  }
  return {pair[0], pair[1], pair[2], pair[3]};
}

// A scalar, for rows that are not made of vectors.
template <typename Element>
__device__ void Unpack(Element raw, float (&element)[1]) {
  element[0] = static_cast<float>(raw);
}

// How n elements lie in a register until they are used.
template <typename Element, int n>
using Raw = std::conditional_t<n == 1, Element, uint4>;

// Rows of an Args that are there: args.rows, or as many as its count says.
template <typename Args>
__device__ __forceinline__ int64_t NumRows(const Args& args) {
  if (args.count == nullptr) return args.rows;
  return min(args.rows, int64_t{*args.count} * args.rows_per_count);
}

// Returns whether p may be read as vectors.
inline bool IsAligned(const void* p) {
  return reinterpret_cast<uintptr_t>(p) % 16 == 0;
}

}  // namespace strata::gpu

#endif  // CUDA_OPS_VECTOR16_CUH_
