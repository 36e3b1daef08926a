// A head of a token as a packed cache holds it, on the device; the format is
// that of core/quant/cache_format.h.

#ifndef CUDA_OPS_CACHE_PACKED_HEAD_CUH_
#define CUDA_OPS_CACHE_PACKED_HEAD_CUH_

#include <cstddef>
#include <cstdint>

#include "cuda/ops/cache/packed_format.h"

namespace strata::gpu {

// The upper half of a float.
__device__ __forceinline__ float WidenBits(uint16_t bits) {
  return __uint_as_float(uint32_t{bits} << 16);
}

// Elements of a head in numbers, exactly.
struct PackedHead {
  const uint8_t* data = nullptr;  // At an even address.
  PackedFormat format = PackedFormat::kBf16;

  __device__ __forceinline__ bool operator!=(std::nullptr_t) const {
    return data != nullptr;
  }
  __device__ __forceinline__ float operator[](int column) const {
    const int group = column / kPackedGroup, at = column % kPackedGroup;
    const uint8_t* const from = data + group * PackedGroupBytes(format);
    const auto half = [&](int i) {
      return WidenBits(reinterpret_cast<const uint16_t*>(from)[i]);
    };
    if (format == PackedFormat::kBf16) return half(at);
    if (format == PackedFormat::kInt8) {
      return static_cast<float>(static_cast<int8_t>(from[at])) *
             half(kPackedGroup / 2);
    }
    constexpr int kHalf = kPackedGroup / 2;
    const int code = at < kHalf ? from[at] & 15 : from[at - kHalf] >> 4;
    return static_cast<float>(code - 8) * half(kHalf / 2);
  }
};

// Keys or values of a cache: as CachedArgs take them (cached_rows.cuh).
struct PackedCache {
  using Line = PackedHead;
  const uint8_t* data = nullptr;  // [slots, row_bytes]
  int64_t row_bytes = 0, head_bytes = 0;
  PackedFormat format = PackedFormat::kBf16;

  __device__ __forceinline__ Line At(int64_t row, int64_t kv_head) const {
    return {data + row * row_bytes + kv_head * head_bytes, format};
  }
};

}  // namespace strata::gpu

#endif  // CUDA_OPS_CACHE_PACKED_HEAD_CUH_
