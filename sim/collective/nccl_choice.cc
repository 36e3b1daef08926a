#include "sim/collective/nccl_choice.h"

#include <algorithm>
#include <array>
#include <cmath>

#include "sim/cluster/cluster.pb.h"

namespace strata::sim {
namespace {

// Microseconds: NCCL's own numbers, not measurements.
struct Estimate {
  NcclProtocol protocol;
  double base_us;
  double step_us;
  double gb_per_s;
};

constexpr double kLargestPart = 16 << 20;

}  // namespace

NcclProtocol RingProtocol(const NcclTuner& tuner, double steps, double bytes) {
  const double ring = tuner.ring_gb_per_s();
  const std::array<Estimate, 3> estimates = {{
      {NcclProtocol::kLl, 6.6, 0.6, std::min(tuner.ll_gb_per_s(), 0.5 * ring)},
      {NcclProtocol::kLl128, 14, 1.9, 0.92 * ring},
      {NcclProtocol::kSimple, 8.4, 3.4, ring},
  }};
  const auto time_us = [&](const Estimate& of) {
    return of.base_us + steps * of.step_us + bytes / (of.gb_per_s * 1e3);
  };
  return std::min_element(estimates.begin(), estimates.end(),
                          [&](const Estimate& a, const Estimate& b) {
                            return time_us(a) < time_us(b);
                          })
      ->protocol;
}

int MessageChannels(const NcclTuner& tuner, int num_ranks, double bytes,
                    double least_part) {
  if (tuner.channels() == 0) return 1;
  int most = 1;
  while (most < tuner.channels()) most *= 2;
  int of_peer = most;
  while (of_peer > 1 && of_peer * num_ranks > most) of_peer /= 2;
  const double parts = std::max(1.0, std::ceil(bytes / least_part));
  int channels = std::min<double>(of_peer, parts);
  while (bytes / channels > kLargestPart && channels <= most / 2) channels *= 2;
  return channels;
}

}  // namespace strata::sim
