// B5, joint optimisation of routing and precision: lower loss than one after
// the other, at equal bytes.

#include <cmath>
#include <string>
#include <vector>

#include "absl/strings/str_format.h"
#include "tools/scorecard/claim.h"
#include "tools/scorecard/quant/joint_study.h"
#include "training/demo/report.h"

namespace strata {
namespace {

const JointOutcome& OutcomeOf(const JointRun& run, const std::string& variant) {
  for (const JointOutcome& outcome : run.outcomes) {
    if (outcome.variant == variant) return outcome;
  }
  return run.outcomes.back();
}

Measure CompareVariants(const std::vector<JointRun>& runs,
                        const std::string& what, const std::string& baseline,
                        const std::string& ours, double JointOutcome::*of) {
  std::vector<double> a, b;
  for (const JointRun& run : runs) {
    a.push_back(OutcomeOf(run, baseline).*of);
    b.push_back(OutcomeOf(run, ours).*of);
  }
  return CompareRuns(what, baseline, a, ours, b);
}

}  // namespace

ClaimResult JointPrecision(const std::vector<JointRun>& runs) {
  ClaimResult result;
  result.id = "B5";
  result.title = "Routing and precision together";
  const std::string bits = "validation bits per byte";
  Measure promised = CompareVariants(runs, bits, kOneByOne, kJoint,
                                     &JointOutcome::bits_per_byte);
  // Lower beyond the noise: by two standard errors of the difference.
  std::vector<double> less;
  for (const JointRun& run : runs) {
    less.push_back(OutcomeOf(run, kJoint).bits_per_byte -
                   OutcomeOf(run, kOneByOne).bits_per_byte);
  }
  promised.of = Measure::Of::kDifference;
  promised.ratio = SpreadOf(less);
  const double error =
      promised.ratio.deviation / std::sqrt(static_cast<double>(less.size()));
  promised.want = Measure::Want::kAtMost;
  promised.promised = -2 * error;
  result.measures.push_back(promised);
  const auto add = [&](const std::string& baseline, const std::string& ours) {
    result.measures.push_back(CompareVariants(
        runs, bits + ", beside", baseline, ours, &JointOutcome::bits_per_byte));
  };
  add(kByWeights, kByRouting);   // What the choice alone does ...
  add(kByRouting, kJoint);       // ... what tuning adds to it ...
  add(kTunedByRouting, kJoint);  // ... rather afterwards than before ...
  add(kUntouched, kTunedF32);    // ... and to the model in F32.
  add(kUntouched, kJoint);
  result.measures.push_back(CompareVariants(
      runs, "next-token accuracy", kOneByOne, kJoint, &JointOutcome::accuracy));
  result.measures.push_back(
      CompareVariants(runs, "bits a weight of experts, scales counted",
                      kOneByOne, kJoint, &JointOutcome::bits_per_weight));
  result.notes.push_back(absl::StrFormat(
      "%s less %s: %+.5f bits per byte, standard error %.5f over %d runs; "
      "reached is what is below 0 by two of these",
      kJoint, kOneByOne, promised.ratio.mean, error, less.size()));
  if (runs.size() < 2) {
    result.not_measured.push_back("the noise, which wants more than one run");
  }
  for (const JointRun& run : runs) {
    result.notes.push_back(absl::StrFormat(
        "seed %d: %d of %d experts in %d bits, of which both choices have %d; "
        "the others in %d",
        run.seed, run.num_wide, run.num_experts, 2 * run.bits, run.num_shared,
        run.bits));
  }
  return result;
}

}  // namespace strata
