// The formats of packed caches (core/quant/cache_format.h) as kernels have
// them.

#ifndef CUDA_OPS_CACHE_PACKED_FORMAT_H_
#define CUDA_OPS_CACHE_PACKED_FORMAT_H_

#include "cuda/runtime/kernel.h"

namespace strata::gpu {

// As attributes say it: strata::CacheFormat, whose header .cu files cannot
// have. kF32 is not packed.
enum class PackedFormat : int { kF32 = 0, kBf16 = 1, kInt8 = 2, kInt4 = 3 };

constexpr bool IsInCodes(PackedFormat format) {
  return format == PackedFormat::kInt8 || format == PackedFormat::kInt4;
}

constexpr int kPackedGroup = 32;  // Columns that share a scale.

// Codes of a group, and those with its scale.
constexpr int PackedCodeBytes(PackedFormat format) {
  return format == PackedFormat::kBf16   ? 2 * kPackedGroup
         : format == PackedFormat::kInt8 ? kPackedGroup
                                         : kPackedGroup / 2;
}
constexpr int PackedGroupBytes(PackedFormat format) {
  return PackedCodeBytes(format) + (format == PackedFormat::kBf16 ? 0 : 2);
}

// Of a head of so many columns, its last group filled up.
constexpr int PackedHeadBytes(PackedFormat format, int columns) {
  return (columns + kPackedGroup - 1) / kPackedGroup * PackedGroupBytes(format);
}

struct PackedRounding {
  PackedFormat format = PackedFormat::kBf16;
  bool power_of_two = false;  // Scales are powers of two, and positive.
};
// As a node's attributes say it.
inline PackedRounding PackedRoundingOf(const KernelContext& ctx) {
  return {static_cast<PackedFormat>(ctx.Int("format")),
          ctx.Int("attention_bits") > 0};
}

}  // namespace strata::gpu

#endif  // CUDA_OPS_CACHE_PACKED_FORMAT_H_
