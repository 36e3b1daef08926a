// B5, joint optimisation of routing and precision: lower loss than one after
// the other, at equal bytes.

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
  promised.want = Measure::Want::kAtMost;
  promised.promised = 1;
  result.measures.push_back(promised);
  const auto add = [&](const std::string& baseline, const std::string& ours) {
    result.measures.push_back(CompareVariants(
        runs, bits + ", beside", baseline, ours, &JointOutcome::bits_per_byte));
  };
  add(kByWeights, kByRouting);  // What the choice alone does ...
  add(kByRouting, kJoint);      // ... what tuning adds to it ...
  add(kUntouched, kTunedF32);   // ... and to the model before.
  add(kUntouched, kJoint);
  result.measures.push_back(CompareVariants(
      runs, "next-token accuracy", kOneByOne, kJoint, &JointOutcome::accuracy));
  result.measures.push_back(
      CompareVariants(runs, "bits a weight of experts, scales counted",
                      kOneByOne, kJoint, &JointOutcome::bits_per_weight));
  for (const JointRun& run : runs) {
    result.notes.push_back(absl::StrFormat(
        "seed %d: %d of %d experts in 8 bits, of which both choices have %d",
        run.seed, run.num_eight, run.num_experts, run.num_shared));
  }
  result.notes.push_back(
      "numbers are exact, the bytes counted: kernels for experts of several "
      "formats in one matrix are missing");
  return result;
}

}  // namespace strata
