// A2, adaptive gate: a Gini of the expert load of at most 0.58 of the V1
// router's.

#include <utility>
#include <vector>

#include "tools/scorecard/claim.h"
#include "tools/scorecard/runs.h"
#include "tools/scorecard/variants.h"

namespace strata {

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
  // A difference: the baseline may starve none.
  Measure starved = Compare(runs, "experts under a tenth of the mean load", kV1,
                            kV3, StarvedShare);
  starved.difference = true;
  starved.ratio = {starved.ours.mean - starved.baseline.mean, 0};
  result.measures.push_back(std::move(starved));
  result.not_measured = {
      "routing of 4096 tokens in 0.8 ms on a GPU",
      "steps until a starved expert has half the mean load",
      "similarity (CKA) of the outputs of experts chosen together"};
  return result;
}

}  // namespace strata
