// A1, hierarchical experts: used at least 1.27 times as evenly as the V1
// router's; at least 30 % fewer expert FLOPs than V2 at no more loss.

#include <string>
#include <utility>
#include <vector>

#include "tools/scorecard/claim.h"
#include "tools/scorecard/runs.h"
#include "tools/scorecard/variants.h"

namespace strata {

ClaimResult HierarchicalExperts(const std::vector<ScoredRun>& runs) {
  ClaimResult result;
  result.id = "A1";
  result.title = "Hierarchical experts";

  Measure use = Compare(runs, "expert utilisation", kV1, kV3, Utilisation);
  use.want = Measure::Want::kAtLeast;
  use.promised = 1.27;
  result.measures.push_back(std::move(use));
  result.measures.push_back(
      Compare(runs, "expert utilisation, V2 beside", kV1, kV2, Utilisation));

  // One model must have both: fewer FLOPs and no more loss.
  for (const char* ours : {kV3, kV3Sparse}) {
    Measure flops =
        Compare(runs, "expert FLOPs per token", kV2, ours, FlopsPerToken);
    Measure loss =
        Compare(runs, "validation bits per byte", kV2, ours, BitsPerByte);
    Measure train_flops =
        Compare(runs, "the same in training", kV2, ours, TrainFlopsPerToken);
    const bool fits = flops.ratio.mean <= 0.70;
    if (fits || std::string(ours) == kV3Sparse) {
      flops.want = loss.want = Measure::Want::kAtMost;
      flops.promised = 0.70;
      loss.promised = 1.0;
    }
    result.measures.push_back(std::move(flops));
    result.measures.push_back(std::move(train_flops));
    result.measures.push_back(std::move(loss));
    if (fits && result.measures.back().reached()) break;
  }
  result.not_measured.push_back(
      "utilisation on a consultation-text domain (D5)");
  return result;
}

}  // namespace strata
