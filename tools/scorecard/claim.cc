#include "tools/scorecard/claim.h"

#include <algorithm>
#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "nlohmann/json.hpp"
#include "tools/scorecard/runs.h"
#include "tools/scorecard/variants.h"
#include "training/demo/report.h"

namespace strata {

std::string ClaimResult::verdict() const {
  const bool reached =
      std::all_of(measures.begin(), measures.end(),
                  [](const Measure& m) { return m.reached(); });
  if (!reached) return "not reached";
  return not_measured.empty() ? "reached" : "reached as far as measured";
}

Measure CompareRuns(const std::string& what, const std::string& baseline_name,
                    const std::vector<double>& baseline,
                    const std::string& ours_name,
                    const std::vector<double>& ours) {
  Measure measure;
  measure.what = what;
  measure.baseline_name = baseline_name;
  measure.ours_name = ours_name;
  std::vector<double> ratio;
  for (size_t i = 0; i < ours.size(); ++i) {
    ratio.push_back(baseline[i] != 0 ? ours[i] / baseline[i] : 1);
  }
  measure.baseline = SpreadOf(baseline);
  measure.ours = SpreadOf(ours);
  measure.ratio = SpreadOf(ratio);
  return measure;
}

Measure Compare(const std::vector<ScoredRun>& runs, const std::string& what,
                const std::string& baseline, const std::string& ours,
                double (*value)(const ScoredRun&), Measure::Of of) {
  Measure measure;
  measure.of = of;
  measure.what = what;
  measure.baseline_name = baseline;
  measure.ours_name = ours;
  std::vector<double> a, b, ratio;
  for (const ScoredRun& run : runs) {
    if (run.variant != baseline) continue;
    for (const ScoredRun& other : runs) {
      if (other.variant != ours || other.seed != run.seed) continue;
      a.push_back(value(run));
      b.push_back(value(other));
      ratio.push_back(of == Measure::Of::kRatio        ? b.back() / a.back()
                      : of == Measure::Of::kDifference ? b.back() - a.back()
                                                       : b.back());
    }
  }
  measure.baseline = SpreadOf(a);
  measure.ours = SpreadOf(b);
  measure.ratio = SpreadOf(ratio);
  return measure;
}

double Gini(const ScoredRun& run) { return run.experts.gini; }
double Utilisation(const ScoredRun& run) { return run.experts.utilisation; }
double StarvedShare(const ScoredRun& run) { return run.experts.starved_share; }
double FlopsPerToken(const ScoredRun& run) {
  return run.experts.flops_per_token;
}
double ActiveShare(const ScoredRun& run) { return run.experts.active_share; }
double Accuracy(const ScoredRun& run) { return run.accuracy; }
double BitsPerByte(const ScoredRun& run) { return run.bits_per_byte; }
double TrainFlopsPerToken(const ScoredRun& run) {
  return run.train_flops_per_token;
}
double ColdStartSteps(const ScoredRun& run) { return run.cold_start_steps; }
double RedundancyOf(const ScoredRun& run) { return run.redundancy; }

Measure RoutingTime(int64_t num_tokens, const std::vector<double>& v2_ms,
                    const std::vector<double>& v3_ms) {
  Measure measure;
  measure.what =
      absl::StrCat("routing of ", num_tokens, " tokens, ms on one CPU thread");
  measure.baseline_name = kV2;
  measure.ours_name = kV3;
  measure.baseline = SpreadOf(v2_ms);
  measure.ours = SpreadOf(v3_ms);
  measure.ratio.mean = measure.ours.mean / measure.baseline.mean;
  return measure;
}

nlohmann::json ToJson(const ClaimResult& result) {
  nlohmann::json measures = nlohmann::json::array();
  for (const Measure& m : result.measures) {
    nlohmann::json json = {{"what", m.what},
                           {"baseline", m.baseline_name},
                           {"ours", m.ours_name},
                           {"baseline_value", ToJson(m.baseline)},
                           {"ours_value", ToJson(m.ours)},
                           {m.of == Measure::Of::kRatio        ? "ratio"
                            : m.of == Measure::Of::kDifference ? "difference"
                                                               : "value",
                            ToJson(m.ratio)}};
    if (m.want != Measure::Want::kNone) {
      json["promised"] = {
          {m.want == Measure::Want::kAtMost ? "at_most" : "at_least",
           m.promised}};
      json["reached"] = m.reached();
    }
    measures.push_back(std::move(json));
  }
  return {{"id", result.id},       {"title", result.title},
          {"measures", measures},  {"not_measured", result.not_measured},
          {"notes", result.notes}, {"verdict", result.verdict()}};
}

}  // namespace strata
