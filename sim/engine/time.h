// Simulated time: whole picoseconds, so that sums do not depend on their order.
//
// 64 bits reach 106 days. Conversions and AddTime stop at kForever instead of
// overflowing: a run that long is an answer ("never"), not an error.

#ifndef SIM_ENGINE_TIME_H_
#define SIM_ENGINE_TIME_H_

#include <cstdint>
#include <limits>

namespace strata::sim {

using Picoseconds = int64_t;

inline constexpr Picoseconds kPicosecondsPerSecond = 1'000'000'000'000;
inline constexpr Picoseconds kPicosecondsPerMicrosecond = 1'000'000;
inline constexpr Picoseconds kForever = std::numeric_limits<int64_t>::max();

// To the nearest picosecond. Anything below 0 is 0, anything beyond the range,
// infinity and NaN included, is kForever.
constexpr Picoseconds FromSeconds(double seconds) {
  const double picoseconds = seconds * kPicosecondsPerSecond;
  if (picoseconds <= 0) return 0;
  // 2^63 as a double; the comparison is false for NaN.
  if (!(picoseconds < 9223372036854775808.0)) return kForever;
  return static_cast<Picoseconds>(picoseconds + 0.5);
}

constexpr Picoseconds FromMicroseconds(double microseconds) {
  return FromSeconds(microseconds * 1e-6);
}

constexpr double ToSeconds(Picoseconds time) {
  return static_cast<double>(time) / kPicosecondsPerSecond;
}

constexpr double ToMicroseconds(Picoseconds time) {
  return static_cast<double>(time) / kPicosecondsPerMicrosecond;
}

// a + b for times that are not negative.
constexpr Picoseconds AddTime(Picoseconds a, Picoseconds b) {
  return a > kForever - b ? kForever : a + b;
}

}  // namespace strata::sim

#endif  // SIM_ENGINE_TIME_H_
