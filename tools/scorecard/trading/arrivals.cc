#include "tools/scorecard/trading/arrivals.h"

#include <cmath>
#include <cstdint>
#include <vector>

#include "core/base/random.h"

namespace strata {
namespace {

constexpr double kShare = 0.5;  // Of points that others call forth.
constexpr double kMemory = 10;  // Intervals.

double ExponentialGap(double rate, Random& random) {
  return -std::log(1 - random.Uniform()) / rate;
}

}  // namespace

std::vector<double> PoissonArrivals(int64_t count, double interval_us,
                                    Random& random) {
  std::vector<double> arrivals;
  double at = 0;
  for (int64_t i = 0; i < count; ++i) {
    arrivals.push_back(at += ExponentialGap(1 / interval_us, random));
  }
  return arrivals;
}

// Ogata's thinning: between points the rate only falls, so that candidates at
// the rate of now are taken with the share that is left of it.
std::vector<double> SelfExcitingArrivals(int64_t count, double interval_us,
                                         Random& random) {
  const double base = (1 - kShare) / interval_us;
  const double decay = 1 / (kMemory * interval_us);
  std::vector<double> arrivals;
  double at = 0;
  // As many as there are on average when the process has long been going on.
  double excited = kShare / interval_us;
  while (static_cast<int64_t>(arrivals.size()) < count) {
    const double most = base + excited;
    const double gap = ExponentialGap(most, random);
    at += gap;
    excited *= std::exp(-decay * gap);
    if (random.Uniform() * most > base + excited) continue;
    arrivals.push_back(at);
    excited += kShare * decay;
  }
  return arrivals;
}

}  // namespace strata
