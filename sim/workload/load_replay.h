// A routing trace replayed on a layout, window by window: what the experts'
// loads do to the ranks, with experts left where they are and with the
// balancer of core/parallel placing them anew.
//
//   window w:   rows of each rank --> utilisation, its spread, a step's time
//   placement of window w: Rebalance(loads of window w - 1), as a trainer that
//   only knows the past would do; in the first window, as it stands
//
// Utilisation of a rank is its rows over those of the busiest; the spread is
// its standard deviation over ranks, averaged over gates.

#ifndef SIM_WORKLOAD_LOAD_REPLAY_H_
#define SIM_WORKLOAD_LOAD_REPLAY_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "sim/workload/expert_loads.h"
#include "sim/workload/training_step.h"

namespace strata::sim {

struct BalancePoint {
  int64_t first_step = 0;
  int64_t last_step = 0;
  double utilisation_static = 1;  // Mean over ranks.
  double utilisation_balanced = 1;
  double spread_static = 0;
  double spread_balanced = 0;
  double seconds_static = 0;  // Of a step.
  double seconds_balanced = 0;
  int64_t slots_changed = 0;
};

struct ReplayOptions {
  // Slots that each rank has beyond its share of the experts.
  int64_t redundant_per_rank = 0;
  // Also simulate the step of each window, both ways.
  bool time_steps = true;
};

// Returns the error of a placement or of a step.
absl::StatusOr<std::vector<BalancePoint>> ReplayLoads(
    const StepInputs& inputs, const std::vector<LoadWindow>& windows,
    const std::string& origin, const ReplayOptions& options);

}  // namespace strata::sim

#endif  // SIM_WORKLOAD_LOAD_REPLAY_H_
