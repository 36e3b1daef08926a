// BF16: the upper half of a float, as weights are stored.

#ifndef CORE_TENSOR_BFLOAT16_H_
#define CORE_TENSOR_BFLOAT16_H_

#include <cstdint>
#include <cstring>

#include "core/tensor/dtype.h"

namespace strata {

// Storage alone: arithmetic is that of the float it widens to.
struct BFloat16 {
  uint16_t bits = 0;
};
static_assert(sizeof(BFloat16) == 2);

template <>
constexpr DType DTypeOf<BFloat16>() {
  return DType::kBF16;
}

// Exact.
inline float Widen(BFloat16 x) {
  const uint32_t bits = uint32_t{x.bits} << 16;
  float value;
  std::memcpy(&value, &bits, sizeof(value));
  return value;
}

// The nearest, ties to even; `x` must not be NaN.
inline BFloat16 RoundToBFloat16(float x) {
  uint32_t bits;
  std::memcpy(&bits, &x, sizeof(bits));
  return {static_cast<uint16_t>((bits + 0x7FFF + (bits >> 16 & 1)) >> 16)};
}

// A float in two halves: the nearest BF16, ties away from zero, and what is to
// be added to the bits of a float whose upper half that is, to have x again.
struct FloatHalves {
  BFloat16 high;
  int16_t low = 0;
};
// `x` must not be NaN.
inline FloatHalves SplitFloat(float x) {
  uint32_t bits;
  std::memcpy(&bits, &x, sizeof(bits));
  return {{static_cast<uint16_t>((bits + 0x8000) >> 16)},
          static_cast<int16_t>(bits & 0xFFFF)};
}
inline float JoinHalves(FloatHalves x) {
  const uint32_t bits =
      (uint32_t{x.high.bits} << 16) + static_cast<uint32_t>(int32_t{x.low});
  float value;
  std::memcpy(&value, &bits, sizeof(value));
  return value;
}

// Neither NaN nor infinity.
inline bool IsFinite(BFloat16 x) { return (x.bits & 0x7F80) != 0x7F80; }

}  // namespace strata

#endif  // CORE_TENSOR_BFLOAT16_H_
