#include "tools/scorecard/claim.h"

#include <algorithm>
#include <string>
#include <utility>
#include <vector>

#include "nlohmann/json.hpp"
#include "tools/scorecard/runs.h"
#include "training/demo/report.h"

namespace strata {

std::string ClaimResult::verdict() const {
  const bool reached =
      std::all_of(measures.begin(), measures.end(),
                  [](const Measure& m) { return m.reached(); });
  if (!reached) return "not reached";
  return not_measured.empty() ? "reached" : "reached as far as measured";
}

Measure Compare(const std::vector<ScoredRun>& runs, const std::string& what,
                const std::string& baseline, const std::string& ours,
                double (*value)(const ScoredRun&)) {
  Measure measure;
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
      ratio.push_back(b.back() / a.back());
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

nlohmann::json ToJson(const ClaimResult& result) {
  nlohmann::json measures = nlohmann::json::array();
  for (const Measure& m : result.measures) {
    nlohmann::json json = {
        {"what", m.what},
        {"baseline", m.baseline_name},
        {"ours", m.ours_name},
        {"baseline_value", ToJson(m.baseline)},
        {"ours_value", ToJson(m.ours)},
        {m.difference ? "difference" : "ratio", ToJson(m.ratio)}};
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
