// When the messages of a feed come.

#ifndef TOOLS_SCORECARD_TRADING_ARRIVALS_H_
#define TOOLS_SCORECARD_TRADING_ARRIVALS_H_

#include <cstdint>
#include <vector>

#include "core/base/random.h"

namespace strata {

// `count` points of a Poisson process, in order, `interval_us` apart on
// average.
std::vector<double> PoissonArrivals(int64_t count, double interval_us,
                                    Random& random);

// Of a self-exciting process of the same rate (Hawkes, "Spectra of some
// self-exciting and mutually exciting point processes", 1971): half of the
// points are called forth by those before, each within some ten intervals, as
// trades call forth trades.
//
//   rate(t) = (1 - share) / interval + sum over points before t of
//             share * decay * exp(-decay * age),  decay = 1 / (10 interval)
std::vector<double> SelfExcitingArrivals(int64_t count, double interval_us,
                                         Random& random);

}  // namespace strata

#endif  // TOOLS_SCORECARD_TRADING_ARRIVALS_H_
