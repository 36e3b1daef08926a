#include "core/quant/log_levels.h"

#include <cmath>
#include <cstdint>
#include <cstring>

#include "core/base/check.h"

namespace strata {

LogLevels::LogLevels(int bits) : steps_(1 << (bits - 4)) {
  CHECK(bits >= 4 && bits <= 6) << bits << " bits";
  half_step_ = static_cast<float>(std::exp2(0.5 / steps_));
  for (int k = 0; k < 4; ++k) {
    fraction_[k] =
        static_cast<float>(std::exp2(static_cast<double>(k) / steps_));
  }
  for (int code = 0; code < num_levels(); ++code) {
    value_[code] =
        static_cast<float>(std::exp2(-static_cast<double>(code) / steps_));
  }
}

uint8_t LogLevels::CodeOf(float ratio) const {
  // floor(m log2(x)) from x's exponent and the steps that its mantissa passes.
  const float x = ratio * half_step_;
  uint32_t bits;
  std::memcpy(&bits, &x, sizeof(bits));
  const int exponent = static_cast<int>(bits >> 23 & 255) - 127;
  bits = (bits & 0x7FFFFF) | 0x3F800000;
  float mantissa;
  std::memcpy(&mantissa, &bits, sizeof(mantissa));
  int floor = exponent * steps_;
  for (int k = 1; k < steps_; ++k) floor += mantissa >= fraction_[k];
  if (floor >= 0) return 0;
  return -floor < num_levels() ? static_cast<uint8_t>(-floor) : kDropped;
}

double LogLevels::MaxMeanError() const {
  const double f = std::exp2(0.5 / steps_);
  return (f - 1) / (f + 1);
}

}  // namespace strata
