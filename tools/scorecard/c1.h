// C1, three-dimensional parallelism: dynamic balancing brings the spread of
// utilisation over GPUs from 23 % to 5 %; on 256 nodes with a model of 100 B
// parameters it and 3-D parallelism are 2.41 times as fast as data and expert
// parallelism with experts that stay.
//
// docs/claims_c1.md says how both sides are made.

#ifndef TOOLS_SCORECARD_C1_H_
#define TOOLS_SCORECARD_C1_H_

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "nlohmann/json.hpp"
#include "tools/scorecard/c1_balance.h"
#include "tools/scorecard/c1_layouts.h"
#include "tools/scorecard/claim.h"
#include "training/data/corpus.h"

namespace strata {

struct C1Options {
  std::vector<uint64_t> seeds;
  int64_t steps = 960;  // Of the recorded training.
  std::string routing;  // A trace instead; then once, whatever the seeds.
  std::string folder;   // Gets the traces.
  BalanceOptions balance;
  LayoutsOptions layouts;
};

struct C1Run {
  uint64_t seed = 0;
  std::string trace;
  BalanceOutcome balance;
  std::vector<LayoutsOutcome> layouts;  // One for each cluster.
};

struct C1Observer {
  std::function<void(int64_t done, int64_t all)> on_step;  // Of trainings.
  std::function<void(const C1Run&)> on_run;
};

// `corpus` is not read if a trace is given. Asks `stop` between steps.
//
// Returns CANCELLED if stopped, or the errors of the training, the trace and
// the simulation.
absl::StatusOr<std::vector<C1Run>> RunC1(const Corpus& corpus,
                                         const C1Options& options,
                                         const C1Observer& observer,
                                         const std::function<bool()>& stop);

ClaimResult BalancedParallelism(const std::vector<C1Run>& runs);

// Raw numbers: every window, every side's best layout.
nlohmann::json ToJson(const C1Run& run);

}  // namespace strata

#endif  // TOOLS_SCORECARD_C1_H_
