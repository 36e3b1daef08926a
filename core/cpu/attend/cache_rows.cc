// Compiled once for each vector width, as vector_math.cc is.

#include "core/cpu/attend/cache_rows.h"

#include <algorithm>
#include <cstdint>
#include <cstring>

#include "core/quant/cache_format.h"
#include "core/quant/log_levels.h"
#include "core/tensor/bfloat16.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "core/cpu/attend/cache_rows.cc"
#include "hwy/foreach_target.h"
// Highway asks for this order.
#include "hwy/highway.h"

HWY_BEFORE_NAMESPACE();
namespace strata {
namespace HWY_NAMESPACE {

namespace hn = hwy::HWY_NAMESPACE;

// Vectors of at most 16 lanes: half a group of columns.
using F32 = hn::CappedTag<float, 16>;
using I32 = hn::RebindToSigned<F32>;
using I16 = hn::CappedTag<int16_t, 16>;
constexpr int64_t kHalf = kCacheGroup / 2;

HWY_INLINE float ScaleAfter(const uint8_t* codes, int64_t code_bytes) {
  BFloat16 scale;
  std::memcpy(&scale, codes + code_bytes, sizeof(scale));
  return Widen(scale);
}

HWY_INLINE void WidenBf16(const uint8_t* group, float* out) {
  const F32 f32;
  const hn::RebindToUnsigned<F32> u32;
  const hn::Rebind<uint16_t, F32> u16;
  const auto* const x = reinterpret_cast<const uint16_t*>(group);
  for (int64_t c = 0; c < kCacheGroup; c += hn::Lanes(f32)) {
    const auto bits = hn::PromoteTo(u32, hn::LoadU(u16, x + c));
    hn::StoreU(hn::BitCast(f32, hn::ShiftLeft<16>(bits)), f32, out + c);
  }
}

HWY_INLINE void WidenInt8(const uint8_t* group, float* out) {
  const F32 f32;
  const I32 i32;
  const hn::Rebind<int8_t, F32> i8;
  const auto scale = hn::Set(f32, ScaleAfter(group, kCacheGroup));
  const auto* const code = reinterpret_cast<const int8_t*>(group);
  for (int64_t c = 0; c < kCacheGroup; c += hn::Lanes(f32)) {
    const auto wide = hn::PromoteTo(i32, hn::LoadU(i8, code + c));
    hn::StoreU(hn::Mul(hn::ConvertTo(f32, wide), scale), f32, out + c);
  }
}

HWY_INLINE void WidenInt4(const uint8_t* group, float* out) {
  const F32 f32;
  const I32 i32;
  const hn::Rebind<uint8_t, F32> u8;
  const auto scale = hn::Set(f32, ScaleAfter(group, kHalf));
  const auto middle = hn::Set(i32, 8), mask = hn::Set(i32, 15);
  for (int64_t c = 0; c < kHalf; c += hn::Lanes(f32)) {
    const auto both = hn::PromoteTo(i32, hn::LoadU(u8, group + c));
    const auto low = hn::Sub(hn::And(both, mask), middle);
    const auto high = hn::Sub(hn::ShiftRight<4>(both), middle);
    hn::StoreU(hn::Mul(hn::ConvertTo(f32, low), scale), f32, out + c);
    hn::StoreU(hn::Mul(hn::ConvertTo(f32, high), scale), f32, out + kHalf + c);
  }
}

void WidenCacheRows(CacheFormat format, const uint8_t* row, int64_t stride,
                    int64_t rows, int64_t groups, float* out) {
  const int64_t bytes = CacheGroupBytes(format);
  for (int64_t i = 0; i < rows; ++i, row += stride) {
    const uint8_t* group = row;
    for (int64_t g = 0; g < groups; ++g, group += bytes, out += kCacheGroup) {
      if (format == CacheFormat::kInt8) {
        WidenInt8(group, out);
      } else if (format == CacheFormat::kInt4) {
        WidenInt4(group, out);
      } else {
        WidenBf16(group, out);
      }
    }
  }
}

// sum [32] += codes, in 16 bits.
HWY_INLINE void AddInt8(const uint8_t* group, int16_t* sum) {
  const I16 i16;
  const hn::Rebind<int8_t, I16> i8;
  const auto* const code = reinterpret_cast<const int8_t*>(group);
  for (int64_t c = 0; c < kCacheGroup; c += hn::Lanes(i16)) {
    const auto wide = hn::PromoteTo(i16, hn::LoadU(i8, code + c));
    hn::StoreU(hn::Add(hn::LoadU(i16, sum + c), wide), i16, sum + c);
  }
}

HWY_INLINE void AddInt4(const uint8_t* group, int16_t* sum) {
  const I16 i16;
  const hn::Rebind<uint8_t, I16> u8;
  const auto middle = hn::Set(i16, int16_t{8}),
             mask = hn::Set(i16, int16_t{15});
  for (int64_t c = 0; c < kHalf; c += hn::Lanes(i16)) {
    const auto both = hn::PromoteTo(i16, hn::LoadU(u8, group + c));
    const auto low = hn::Sub(hn::And(both, mask), middle);
    const auto high = hn::Sub(hn::ShiftRight<4>(both), middle);
    int16_t* const later = sum + kHalf + c;
    hn::StoreU(hn::Add(hn::LoadU(i16, sum + c), low), i16, sum + c);
    hn::StoreU(hn::Add(hn::LoadU(i16, later), high), i16, later);
  }
}

template <bool kFour>
HWY_INLINE void AddRows(const LevelSums& args) {
  const uint8_t* group = args.group;
  for (int64_t i = 0; i < args.rows; ++i, group += args.stride) {
    const int level =
        args.level[i] + args.steps * (args.top - args.exponent[i]);
    int16_t* const sum =
        args.sum + std::min(level, args.num_levels) * kCacheGroup;
    if (kFour) {
      AddInt4(group, sum);
    } else {
      AddInt8(group, sum);
    }
  }
}

void AddCacheCodes(const LevelSums& args) {
  if (args.format == CacheFormat::kInt4) {
    AddRows<true>(args);
  } else {
    AddRows<false>(args);
  }
}

void FindCacheLevels(const LogLevels& levels, const float* p, float largest,
                     int64_t n, uint8_t* level) {
  const F32 f32;
  const I32 i32;
  const hn::Rebind<uint8_t, F32> u8;
  const auto divisor = hn::Set(f32, largest);
  const auto half_step = hn::Set(f32, levels.half_step());
  const int m = levels.steps_per_octave();
  const auto steps = hn::Set(i32, m), end = hn::Set(i32, levels.num_levels());
  const auto dropped = hn::Set(i32, LogLevels::kDropped);
  for (int64_t i = 0; i < n; i += hn::Lanes(f32)) {
    const auto x = hn::Mul(hn::Div(hn::LoadU(f32, p + i), divisor), half_step);
    const auto bits = hn::BitCast(i32, x);
    const auto exponent = hn::Sub(hn::ShiftRight<23>(bits), hn::Set(i32, 127));
    auto floor = hn::Mul(exponent, steps);
    if (m > 1) {
      const auto mantissa =
          hn::BitCast(f32, hn::Or(hn::And(bits, hn::Set(i32, 0x7FFFFF)),
                                  hn::Set(i32, 0x3F800000)));
      for (int k = 1; k < m; ++k) {
        const auto passes = hn::Ge(mantissa, hn::Set(f32, levels.fraction(k)));
        floor = hn::Sub(floor, hn::BitCast(i32, hn::VecFromMask(f32, passes)));
      }
    }
    const auto code = hn::Max(hn::Neg(floor), hn::Zero(i32));
    hn::StoreU(
        hn::DemoteTo(u8, hn::IfThenElse(hn::Lt(code, end), code, dropped)), u8,
        level + i);
  }
}

void FlushCacheSums(int64_t n, int16_t* sum, int32_t* total) {
  const hn::CappedTag<int32_t, 16> i32;
  const hn::Rebind<int16_t, decltype(i32)> i16;
  for (int64_t i = 0; i < n; i += hn::Lanes(i32)) {
    const auto wide = hn::PromoteTo(i32, hn::LoadU(i16, sum + i));
    hn::StoreU(hn::Add(hn::LoadU(i32, total + i), wide), i32, total + i);
    hn::StoreU(hn::Zero(i16), i16, sum + i);
  }
}

const CacheRows& CacheRowsTable() {
  static constexpr CacheRows table = {&WidenCacheRows, &FindCacheLevels,
                                      &AddCacheCodes, &FlushCacheSums};
  return table;
}

}  // namespace HWY_NAMESPACE
}  // namespace strata
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace strata {

HWY_EXPORT(CacheRowsTable);

const CacheRows& CacheRows::Get() {
  return HWY_DYNAMIC_DISPATCH(CacheRowsTable)();
}

}  // namespace strata
#endif  // HWY_ONCE
