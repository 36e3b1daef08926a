// Rounding a head to a packed cache, on the device: the CPU's bits
// (core/quant/cache_format.cc), so that what one has stored the other may read.

#ifndef CUDA_OPS_CACHE_PACKED_GROUP_CUH_
#define CUDA_OPS_CACHE_PACKED_GROUP_CUH_

#include <cmath>
#include <cstdint>

#include "cuda/ops/cache/bf16_number.cuh"
#include "cuda/ops/cache/packed_format.h"
#include "cuda/ops/cache/packed_head.cuh"
#include "cuda/ops/device.cuh"
#include "cuda_bf16.h"

namespace strata::gpu {

// The BF16 next to x that is at least as far from zero.
__device__ __forceinline__ uint16_t RoundAway(float x) {
  return static_cast<uint16_t>((__float_as_uint(x) + 0xFFFF) >> 16);
}

// Of a group whose element of largest magnitude is `extreme`.
__device__ __forceinline__ uint16_t ScaleOf(const PackedRounding& by,
                                            float extreme) {
  const bool eight = by.format == PackedFormat::kInt8;
  const float levels = eight ? 127 : 7.5f;
  if (!by.power_of_two) {
    return RoundAway(eight ? __fdiv_rn(fabsf(extreme), levels)
                           : __fdiv_rn(extreme, -8));
  }
  if (extreme == 0) return 0;
  int exponent;
  const float m = frexpf(__fdiv_rn(fabsf(extreme), levels), &exponent);
  return RoundAway(ldexpf(1.f, m == 0.5f ? exponent - 1 : exponent));
}

// Lanes' bytes, the even lanes' with their neighbours', those of lanes below
// `count`.
__device__ __forceinline__ void StorePairs(int byte, int count, uint8_t* to) {
  const int next = __shfl_down_sync(kWholeWarp, byte, 1);
  if (Lane() % 2 != 0 || Lane() >= count) return;
  reinterpret_cast<uint16_t*>(to)[Lane() / 2] =
      static_cast<uint16_t>((byte & 255) | (next & 255) << 8);
}

// A group, a lane a column: x, 0 where there is none.
__device__ __forceinline__ void PackGroup(const PackedRounding& by, float x,
                                          uint8_t* to) {
  if (by.format == PackedFormat::kBf16) {
    reinterpret_cast<__nv_bfloat16*>(to)[Lane()] = CachedBf16(x);
    return;
  }
  // Added and taken away it rounds to the nearest integer, ties to even.
  constexpr float kRounder = 12582912;  // 1.5 * 2^23
  constexpr uint16_t kNan = 0x7FC0;
  const bool finite = __all_sync(kWholeWarp, isfinite(x));
  // Of several of that magnitude the first one's sign counts.
  const float largest = WarpMax(fabsf(x));
  const int first = __ffs(__ballot_sync(kWholeWarp, fabsf(x) == largest)) - 1;
  const float extreme = __shfl_sync(kWholeWarp, x, max(first, 0));
  const uint16_t stored = finite ? ScaleOf(by, extreme) : kNan;
  const float scale = WidenBits(stored);
  int code = 0;
  if (finite && scale != 0) {
    code = static_cast<int>(
        __fsub_rn(__fadd_rn(__fdiv_rn(x, scale), kRounder), kRounder));
  }
  if (by.format == PackedFormat::kInt8) {
    StorePairs(min(max(code, -127), 127), kPackedGroup, to);
  } else {
    constexpr int kHalf = kPackedGroup / 2;
    const int low = min(max(code, -8), 7) + 8;
    const int high = __shfl_down_sync(kWholeWarp, low, kHalf);
    StorePairs(low | high << 4, kHalf, to);
  }
  if (Lane() == 0) {
    *reinterpret_cast<uint16_t*>(to + PackedCodeBytes(by.format)) = stored;
  }
}

}  // namespace strata::gpu

#endif  // CUDA_OPS_CACHE_PACKED_GROUP_CUH_
