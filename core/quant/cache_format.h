// Keys and values as a KV cache holds them in fewer bits than F32.
//
//   head of a token   |<- 32 columns ->|<- 32 columns ->| ..   the last filled
//                                                              up with zeros
//   INT8   34 bytes    32 codes, a scale (BF16)     x = code * scale
//   INT4   18 bytes    16 bytes, a scale            x = (code - 8) * scale; the
//                      first 16 columns in the low halves of the bytes
//   BF16   64 bytes    32 numbers
//
// A token is rounded when it is stored and never again, by itself alone: what
// is in a cache does not depend on what else is, so blocks can be shared,
// copied and made anew.
//
// The error of an element, its group's largest magnitude being a:
//
//   INT8   a / 254     half a step of a / 127, the scale rounded up to BF16
//                      (1 + 2^-7): codes of -127 to 127 reach a
//   INT4   a / 8       a step of a / 8, which has the sign that takes the
//                      largest to code 0. Half of it, but where an element of
//                      the other sign is beyond 7 steps: up to a whole one
//   BF16   |x| / 256   half of the last place of 8 bits
//
// and with scales that are powers of two (for attention in powers of two, see
// core/quant/log_levels.h): a / 127, and a / 7.5.

#ifndef CORE_QUANT_CACHE_FORMAT_H_
#define CORE_QUANT_CACHE_FORMAT_H_

#include <cstdint>
#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace strata {

enum class CacheFormat : uint8_t { kF32, kBF16, kInt8, kInt4 };

// "f32", "bf16", "int8", "int4".
std::string ToText(CacheFormat format);
// Returns INVALID_ARGUMENT if there is none of that name.
absl::StatusOr<CacheFormat> CacheFormatOf(absl::string_view name);

// What a cache is made of, and what is attended with.
struct CacheOptions {
  CacheFormat format = CacheFormat::kF32;
  // Bits of attention's probabilities, as powers of two: 4, 5 or 6; 0: they
  // are floats. Wants values in INT8 or INT4.
  int attention_bits = 0;

  bool packed() const { return format != CacheFormat::kF32; }
};

// Returns INVALID_ARGUMENT if the options do not go together.
absl::Status CheckCacheOptions(const CacheOptions& options);

// Columns that share a scale.
inline constexpr int64_t kCacheGroup = 32;

inline int64_t CacheGroups(int64_t columns) {
  return (columns + kCacheGroup - 1) / kCacheGroup;
}

// Bytes of the codes of a group; and of a group. Not of F32.
int64_t CacheCodeBytes(CacheFormat format);
int64_t CacheGroupBytes(CacheFormat format);

// Bytes of one head of `columns`, and of all `width` columns of `num_heads` of
// one token, of any format.
int64_t CacheHeadBytes(CacheFormat format, int64_t columns);
int64_t CacheRowBytes(CacheFormat format, int64_t num_heads, int64_t width);

// Rounds x [columns] to `out` [CacheHeadBytes]. A NaN or an infinity makes its
// group NaN. `power_of_two`: scales are powers of two, and positive.
void PackCacheHead(CacheFormat format, bool power_of_two, const float* x,
                   int64_t columns, uint8_t* out);

// A head in numbers, to `out` [columns]; exact. What kernels are held to.
void UnpackCacheHead(CacheFormat format, const uint8_t* head, int64_t columns,
                     float* out);

}  // namespace strata

#endif  // CORE_QUANT_CACHE_FORMAT_H_
