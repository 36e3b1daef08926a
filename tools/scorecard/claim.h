// A claim of the specification, and what was measured of it.
//
// A claim is a ratio: ours over a baseline, both from runs of the same steps,
// tokens and seeds. Its ratio is taken seed by seed, so that its spread is that
// of the ratio. A claim is reached only if each of its measures is; one that is
// not says so, with the number.

#ifndef TOOLS_SCORECARD_CLAIM_H_
#define TOOLS_SCORECARD_CLAIM_H_

#include <cstdint>
#include <string>
#include <vector>

#include "nlohmann/json.hpp"
#include "tools/scorecard/runs.h"
#include "training/demo/report.h"

namespace strata {

// One number of a claim.
struct Measure {
  enum class Want {
    kAtMost,   // ratio <= promised
    kAtLeast,  // ratio >= promised
    kNone,     // Printed beside; promises nothing.
  };
  std::string what;
  std::string baseline_name;
  std::string ours_name;
  Spread baseline;
  Spread ours;
  // What is promised, seed by seed.
  enum class Of {
    kRatio,       // Ours / baseline.
    kDifference,  // Ours - baseline.
    kOurs,        // Ours, the baseline beside.
  };
  Of of = Of::kRatio;
  Spread ratio;  // Or whatever `of` says.
  Want want = Want::kNone;
  double promised = 0;

  bool reached() const {
    if (want == Want::kAtMost) return ratio.mean <= promised;
    return want == Want::kNone || ratio.mean >= promised;
  }
};

struct ClaimResult {
  std::string id;
  std::string title;
  std::vector<Measure> measures;
  std::vector<std::string> not_measured;  // Parts that no run here measures.
  std::vector<std::string> notes;

  // "reached", "not reached", or "reached as far as measured".
  std::string verdict() const;
};

// The measure of `value` in runs of `ours` and those of `baseline`, by seed.
Measure Compare(const std::vector<ScoredRun>& runs, const std::string& what,
                const std::string& baseline, const std::string& ours,
                double (*value)(const ScoredRun&),
                Measure::Of of = Measure::Of::kRatio);

// Of one figure in each of several runs, [runs]: ours over the baseline, 1
// where that is 0.
Measure CompareRuns(const std::string& what, const std::string& baseline_name,
                    const std::vector<double>& baseline,
                    const std::string& ours_name,
                    const std::vector<double>& ours);

// Of `num_tokens` routed repeatedly by V2's gate and by V3's; promises nothing.
Measure RoutingTime(int64_t num_tokens, const std::vector<double>& v2_ms,
                    const std::vector<double>& v3_ms);

double Gini(const ScoredRun& run);
double Utilisation(const ScoredRun& run);
double StarvedShare(const ScoredRun& run);
double FlopsPerToken(const ScoredRun& run);
double ActiveShare(const ScoredRun& run);
double Accuracy(const ScoredRun& run);
double BitsPerByte(const ScoredRun& run);
double TrainFlopsPerToken(const ScoredRun& run);
double ColdStartSteps(const ScoredRun& run);
double RedundancyOf(const ScoredRun& run);

// The claims, each from runs of the variants it names; a file each.
ClaimResult HierarchicalExperts(const std::vector<ScoredRun>& runs);  // A1
ClaimResult AdaptiveGate(const std::vector<ScoredRun>& runs);         // A2
ClaimResult SparseActivation(const std::vector<ScoredRun>& runs);     // A3

nlohmann::json ToJson(const ClaimResult& result);

}  // namespace strata

#endif  // TOOLS_SCORECARD_CLAIM_H_
