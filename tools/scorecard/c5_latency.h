// C5, heterogeneous scheduling, on the trading workload: with C3 and C4 the
// latency from a tick's arrival to its decision is 3.16 times as short as that
// of the unfused, unplanned, serial engine.
//
// docs/fusion.md says how both sides are made.

#ifndef TOOLS_SCORECARD_C5_LATENCY_H_
#define TOOLS_SCORECARD_C5_LATENCY_H_

#include <cstdint>

#include "absl/status/statusor.h"
#include "tools/scorecard/claim.h"

namespace strata {

struct C5Options {
  uint64_t seed = 1;
  int64_t num_symbols = 32;
  int64_t ticks = 2000;  // Of a run.
  int64_t rounds = 9;    // In each of which all engines take their turn.
  double load = 0.7;     // Of what the serial engine can bear.
};

// Returns INTERNAL if engines decide differently.
absl::StatusOr<ClaimResult> TradingLatency(const C5Options& options);

}  // namespace strata

#endif  // TOOLS_SCORECARD_C5_LATENCY_H_
