// A2, adaptive gate: a Gini of the expert load of at most 0.58 of the V1
// router's; a forgotten expert is in use again within a stated number of steps;
// experts chosen together say less of the same than plain top-k's.

#include <utility>
#include <vector>

#include "tools/scorecard/claim.h"
#include "tools/scorecard/runs.h"
#include "tools/scorecard/variants.h"

namespace strata {
namespace {

// The stated number of steps within which an expert is in use again.
constexpr double kColdStartSteps = 50;

}  // namespace

ClaimResult AdaptiveGate(const std::vector<ScoredRun>& runs) {
  ClaimResult result;
  result.id = "A2";
  result.title = "Adaptive gate, three stages";

  Measure gini = Compare(runs, "Gini of the expert load", kV1, kV3, Gini);
  gini.want = Measure::Want::kAtMost;
  gini.promised = 0.58;
  result.measures.push_back(std::move(gini));
  result.measures.push_back(
      Compare(runs, "Gini of the expert load, V2 beside", kV1, kV2, Gini));
  result.measures.push_back(
      Compare(runs, "experts under a tenth of the mean load", kV1, kV3,
              StarvedShare, Measure::Of::kDifference));

  for (const char* baseline : {kV1, kV2}) {
    Measure cold =
        Compare(runs, "steps of a forgotten expert to half the mean load",
                baseline, kV3, ColdStartSteps, Measure::Of::kOurs);
    Measure redundancy =
        Compare(runs, "similarity (CKA) of experts chosen together", baseline,
                kV3, RedundancyOf);
    if (baseline == kV1) {
      cold.want = redundancy.want = Measure::Want::kAtMost;
      cold.promised = kColdStartSteps;
      redundancy.promised = 1;
    }
    result.measures.push_back(std::move(cold));
    result.measures.push_back(std::move(redundancy));
  }
  result.not_measured = {
      "routing of 4096 tokens in 0.8 ms on a GPU, from a run of 1B parameters"};
  return result;
}

}  // namespace strata
