// What moving bytes costs, and how it overlaps with arithmetic.

#ifndef SIM_COMPUTE_MEMORY_COST_H_
#define SIM_COMPUTE_MEMORY_COST_H_

#include <algorithm>
#include <cmath>

#include "sim/compute/kernel_shape.h"

namespace strata {

// Bytes a second that are asked of memory and of L2.
struct Bandwidth {
  double memory = 0;
  double l2 = 0;
};

// Share of the bytes that miss a cache of which a repeated call finds up to
// `resident_bytes`: none up to there, all from twice that.
inline double MissShare(Reuse reuse, double working_bytes,
                        double resident_bytes) {
  if (reuse == Reuse::kNone) return 1;
  return std::clamp(working_bytes / resident_bytes - 1, 0.0, 1.0);
}

// Microseconds to read or write them.
inline double TrafficUs(double bytes, double miss_share,
                        const Bandwidth& bandwidth) {
  return bytes * 1e6 *
         (miss_share / bandwidth.memory + (1 - miss_share) / bandwidth.l2);
}

// The time of two things that overlap: their sum for exponent 1, the longer one
// for a large exponent.
inline double Overlapped(double a, double b, double exponent) {
  const double longer = std::max(a, b);
  if (longer <= 0) return 0;
  return longer * std::pow(1 + std::pow(std::min(a, b) / longer, exponent),
                           1 / exponent);
}

// Time lost to the power limit: long kernels run at `sustained_share` of the
// rate that short ones reach, with a transition around a millisecond.
inline double PowerLimit(double busy_us, double sustained_share) {
  constexpr double kTransitionUs = 1000;
  return 1 + (1 / sustained_share - 1) * busy_us / (busy_us + kTransitionUs);
}

}  // namespace strata

#endif  // SIM_COMPUTE_MEMORY_COST_H_
