#include "core/quant/cache_format.h"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "core/tensor/bfloat16.h"

namespace strata {
namespace {

constexpr CacheFormat kFormats[] = {CacheFormat::kF32, CacheFormat::kBF16,
                                    CacheFormat::kInt8, CacheFormat::kInt4};
constexpr int64_t kHalf = kCacheGroup / 2;
// Added and taken away it rounds to the nearest integer, ties to even: floats
// of that size have no fraction.
constexpr float kRounder = 12582912;  // 1.5 * 2^23

// The BF16 next to x that is at least as far from zero.
BFloat16 RoundAway(float x) {
  uint32_t bits;
  std::memcpy(&bits, &x, sizeof(bits));
  return {static_cast<uint16_t>((bits + 0xFFFF) >> 16)};
}

// Of a group's element of largest magnitude; NaN if one is not finite.
float Extreme(const float* x, int64_t n) {
  float extreme = 0;
  for (int64_t i = 0; i < n; ++i) {
    if (!std::isfinite(x[i])) return std::numeric_limits<float>::quiet_NaN();
    if (std::abs(x[i]) > std::abs(extreme)) extreme = x[i];
  }
  return extreme;
}

BFloat16 ScaleOf(CacheFormat format, bool power_of_two, float extreme) {
  if (std::isnan(extreme)) return {0x7FC0};
  const float levels = format == CacheFormat::kInt8 ? 127 : 7.5f;
  if (!power_of_two) {
    return RoundAway(format == CacheFormat::kInt8 ? std::abs(extreme) / levels
                                                  : extreme / -8);
  }
  if (extreme == 0) return {};
  // The least power of two that is not below: m * 2^e with m in [0.5, 1).
  int exponent;
  const float m = std::frexp(std::abs(extreme) / levels, &exponent);
  return RoundAway(std::ldexp(1.0f, m == 0.5f ? exponent - 1 : exponent));
}

void PackGroup(CacheFormat format, bool power_of_two, const float* x, int64_t n,
               uint8_t* out) {
  if (format == CacheFormat::kBF16) {
    for (int64_t i = 0; i < kCacheGroup; ++i) {
      BFloat16 number;
      if (i < n) {
        number = std::isfinite(x[i]) ? RoundToBFloat16(x[i]) : BFloat16{0x7FC0};
      }
      std::memcpy(out + 2 * i, &number, sizeof(number));
    }
    return;
  }
  const BFloat16 stored = ScaleOf(format, power_of_two, Extreme(x, n));
  const float scale = Widen(stored);
  int code[kCacheGroup] = {};
  if (scale != 0 && !std::isnan(scale)) {
    for (int64_t i = 0; i < n; ++i) {
      code[i] = static_cast<int>(x[i] / scale + kRounder - kRounder);
    }
  }
  if (format == CacheFormat::kInt8) {
    for (int64_t i = 0; i < kCacheGroup; ++i) {
      out[i] = static_cast<uint8_t>(std::clamp(code[i], -127, 127));
    }
  } else {
    for (int64_t i = 0; i < kHalf; ++i) {
      const int low = std::clamp(code[i], -8, 7) + 8;
      const int high = std::clamp(code[i + kHalf], -8, 7) + 8;
      out[i] = static_cast<uint8_t>(low | high << 4);
    }
  }
  std::memcpy(out + CacheCodeBytes(format), &stored, sizeof(stored));
}

void UnpackGroup(CacheFormat format, const uint8_t* group, int64_t n,
                 float* out) {
  BFloat16 number;
  if (format == CacheFormat::kBF16) {
    for (int64_t i = 0; i < n; ++i) {
      std::memcpy(&number, group + 2 * i, sizeof(number));
      out[i] = Widen(number);
    }
    return;
  }
  std::memcpy(&number, group + CacheCodeBytes(format), sizeof(number));
  const float scale = Widen(number);
  for (int64_t i = 0; i < n; ++i) {
    int code = static_cast<int8_t>(group[i]);
    if (format == CacheFormat::kInt4) {
      code = (i < kHalf ? group[i] & 15 : group[i - kHalf] >> 4) - 8;
    }
    out[i] = static_cast<float>(code) * scale;
  }
}

}  // namespace

std::string ToText(CacheFormat format) {
  switch (format) {
    case CacheFormat::kF32:
      return "f32";
    case CacheFormat::kBF16:
      return "bf16";
    case CacheFormat::kInt8:
      return "int8";
    case CacheFormat::kInt4:
      return "int4";
  }
  return "";
}

absl::StatusOr<CacheFormat> CacheFormatOf(absl::string_view name) {
  for (const CacheFormat format : kFormats) {
    if (name == ToText(format)) return format;
  }
  return absl::InvalidArgumentError(absl::StrCat(
      "no cache is called ", name, "; want f32, bf16, int8 or int4"));
}

absl::Status CheckCacheOptions(const CacheOptions& options) {
  const int bits = options.attention_bits;
  if (bits != 0 && (bits < 4 || bits > 6)) {
    return absl::InvalidArgumentError(
        absl::StrCat("attention's probabilities have ", bits,
                     " bits; want 4 to 6, or 0 for floats"));
  }
  const bool integers = options.format == CacheFormat::kInt8 ||
                        options.format == CacheFormat::kInt4;
  if (bits != 0 && !integers) {
    return absl::InvalidArgumentError(absl::StrCat(
        "attention in powers of two adds up integers, and the cache is ",
        ToText(options.format), "; want int8 or int4"));
  }
  return absl::OkStatus();
}

int64_t CacheCodeBytes(CacheFormat format) {
  switch (format) {
    case CacheFormat::kInt8:
      return kCacheGroup;
    case CacheFormat::kInt4:
      return kCacheGroup / 2;
    default:
      return 2 * kCacheGroup;
  }
}

int64_t CacheGroupBytes(CacheFormat format) {
  const bool scaled = format != CacheFormat::kBF16;
  return CacheCodeBytes(format) + (scaled ? sizeof(BFloat16) : 0);
}

int64_t CacheHeadBytes(CacheFormat format, int64_t columns) {
  if (format == CacheFormat::kF32) {
    return columns * static_cast<int64_t>(sizeof(float));
  }
  return CacheGroups(columns) * CacheGroupBytes(format);
}

int64_t CacheRowBytes(CacheFormat format, int64_t num_heads, int64_t width) {
  return num_heads * CacheHeadBytes(format, width / num_heads);
}

void PackCacheHead(CacheFormat format, bool power_of_two, const float* x,
                   int64_t columns, uint8_t* out) {
  for (int64_t c = 0; c < columns; c += kCacheGroup) {
    PackGroup(format, power_of_two, x + c, std::min(kCacheGroup, columns - c),
              out);
    out += CacheGroupBytes(format);
  }
}

void UnpackCacheHead(CacheFormat format, const uint8_t* head, int64_t columns,
                     float* out) {
  for (int64_t c = 0; c < columns; c += kCacheGroup) {
    UnpackGroup(format, head, std::min(kCacheGroup, columns - c), out + c);
    head += CacheGroupBytes(format);
  }
}

}  // namespace strata
