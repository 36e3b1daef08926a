// A3, sparse activation: 30 % of the experts (V2) to 18 % (V3) at 98 % of the
// accuracy. Valid only where the number of experts matters: V2 with 30 % beats
// V2 with 3 % by two standard deviations.

#include <cmath>
#include <utility>
#include <vector>

#include "absl/strings/str_format.h"
#include "tools/scorecard/claim.h"
#include "tools/scorecard/runs.h"
#include "tools/scorecard/variants.h"

namespace strata {

ClaimResult SparseActivation(const std::vector<ScoredRun>& runs) {
  ClaimResult result;
  result.id = "A3";
  result.title = "Sparse activation";

  Measure active =
      Compare(runs, "share of experts active", kV2, kV3Sparse, ActiveShare);
  active.want = Measure::Want::kAtMost;
  active.promised = 0.18 / 0.30;
  result.measures.push_back(std::move(active));
  Measure accuracy =
      Compare(runs, "next-token accuracy", kV2, kV3Sparse, Accuracy);
  accuracy.want = Measure::Want::kAtLeast;
  accuracy.promised = 0.98;
  result.measures.push_back(std::move(accuracy));

  // Whether the number of experts matters at all.
  Measure valid =
      Compare(runs, "next-token accuracy, 3 % beside 30 %", kV2,
              kV2Shares[0].name, Accuracy, Measure::Of::kDifference);
  const double spread =
      std::sqrt(valid.baseline.deviation * valid.baseline.deviation +
                valid.ours.deviation * valid.ours.deviation);
  valid.want = Measure::Want::kAtMost;
  valid.promised = -2 * spread;
  result.measures.push_back(std::move(valid));

  for (const FlatShare& share : kV2Shares) {
    result.measures.push_back(Compare(
        runs, absl::StrFormat("next-token accuracy, V2 with %s", share.text),
        kV2, share.name, Accuracy));
  }
  return result;
}

}  // namespace strata
