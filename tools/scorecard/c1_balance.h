// What dynamic balancing does to the spread of utilisation over ranks, on a
// recorded routing trace.
//
//   windows of the trace  | 0 1 2 3 | 4 5 6 7 8 9 ...
//                          profile    measured
//
//   plain     expert e in slot e, for ever
//   fixed     placed once, by Rebalance on the loads of the whole profile
//   dynamic   placed anew in each window, by Rebalance on the window before
//
// `fixed` and `dynamic` have the same slots; `plain` has no spare ones.
//
// Beside it, what the balancer makes of loads that it knows, held to EPLB's on
// the same loads and slots (C2).

#ifndef TOOLS_SCORECARD_C1_BALANCE_H_
#define TOOLS_SCORECARD_C1_BALANCE_H_

#include <cstdint>
#include <vector>

#include "absl/status/statusor.h"
#include "core/parallel/placement.h"
#include "nlohmann/json.hpp"
#include "sim/workload/expert_loads.h"

namespace strata {

struct BalanceOptions {
  int ranks = 8;           // That share a layer's experts.
  int spare_per_rank = 1;  // Slots beyond an even part of the experts.
};

// Utilisation of a rank: its rows over those of the busiest. Mean and standard
// deviation over ranks, mean over gates.
struct Use {
  double mean = 1;
  double spread = 0;
};

struct BalanceWindow {
  int64_t first_step = 0;
  int64_t last_step = 0;
  Use plain, fixed, dynamic;
  int64_t slots_moved = 0;
};

// Max/mean over ranks of each measured gate and window, placed by its own
// loads.
struct HeldToEplb {
  double eplb = 0, ours = 0;  // Means.
  double worst_ratio = 0;     // The largest of ours / EPLB's.
  int64_t cases = 0;
};

struct BalanceOutcome {
  std::vector<BalanceWindow> windows;  // The measured ones.
  Use plain, fixed, dynamic;           // Means over those.
  HeldToEplb known;
};

// How many of a trace's windows are the profile: a quarter, one at least.
int64_t ProfileWindows(int64_t num_windows);

// Loads over some windows, [gates][experts].
std::vector<std::vector<double>> SumOfLoads(
    const std::vector<sim::LoadWindow>& windows, int64_t begin, int64_t end);

// Returns INVALID_ARGUMENT if the trace has fewer than two windows, or if
// experts do not divide over the ranks; the errors of Rebalance.
absl::StatusOr<BalanceOutcome> MeasureBalance(
    const std::vector<sim::LoadWindow>& windows, const BalanceOptions& options);

nlohmann::json ToJson(const BalanceOutcome& outcome);

}  // namespace strata

#endif  // TOOLS_SCORECARD_C1_BALANCE_H_
