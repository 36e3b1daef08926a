#include "tools/scorecard/c1.h"

#include <cstdint>
#include <functional>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "core/base/files.h"
#include "core/base/status_macros.h"
#include "nlohmann/json.hpp"
#include "sim/workload/expert_loads.h"
#include "tools/scorecard/claim.h"
#include "tools/scorecard/skewed_routing.h"
#include "training/data/corpus.h"
#include "training/demo/report.h"

namespace strata {
namespace {

// A trace's records are merged to so many windows, at most twice.
constexpr int64_t kWindows = 40;

using Value = std::function<double(const C1Run&)>;

Measure MeasureOf(const std::vector<C1Run>& runs, const std::string& what,
                  const std::string& baseline_name, const Value& baseline,
                  const std::string& ours_name, const Value& ours) {
  std::vector<double> a, b;
  for (const C1Run& run : runs) {
    a.push_back(baseline(run));
    b.push_back(ours(run));
  }
  return CompareRuns(what, baseline_name, a, ours_name, b);
}

std::string Describe(const char* name, const LayoutsSide& side) {
  return absl::StrFormat(
      "%s: %.4g s (%.4g s with even loads), %s, %s; best of %d that fit, of %d",
      name, side.seconds, side.seconds_even, side.layout, side.schedule,
      side.sweep.points.size(), side.sweep.tried);
}

// Seconds of a step on cluster `index`; a ratio is the baseline's over ours.
void AddSteps(const std::vector<C1Run>& runs, size_t index,
              ClaimResult& result) {
  using Side = LayoutsSide LayoutsOutcome::*;
  const std::string& cluster = runs[0].layouts[index].cluster;
  const auto seconds = [&](Side side) -> Value {
    return [=](const C1Run& r) { return (r.layouts[index].*side).seconds; };
  };
  const auto add = [&](const std::string& what,
                       const std::string& baseline_name, Side baseline,
                       const std::string& ours_name, Side ours) -> Measure& {
    Measure of = MeasureOf(runs, "", "", seconds(ours), "", seconds(baseline));
    std::swap(of.baseline, of.ours);
    of.what = absl::StrCat(cluster, what);
    of.baseline_name = absl::StrCat("data + expert, ", baseline_name);
    of.ours_name = absl::StrCat("data + expert", ours_name);
    result.measures.push_back(std::move(of));
    return result.measures.back();
  };
  using Outcome = LayoutsOutcome;
  const std::string once = "placed once", ours = " + pipeline, dynamic";
  Measure& step = add(": seconds of a step, 99 B parameters (baseline / ours)",
                      once, &Outcome::two_d, ours, &Outcome::three_d);
  if (index == 0) {
    step.want = Measure::Want::kAtLeast;
    step.promised = 2.41;
  }
  add(", balancing alone", once, &Outcome::two_d, ", dynamic",
      &Outcome::two_d_dynamic);
  add(", the third dimension alone", once, &Outcome::two_d,
      " + pipeline, placed once", &Outcome::three_d_fixed);
  // No side shards weights.
  add(", weights not sharded, beside", once, &Outcome::two_d_zero1, ours,
      &Outcome::three_d_zero1);
  add(", weights not sharded, beside", "in order, no spare slots",
      &Outcome::two_d_zero1_plain, ours, &Outcome::three_d_zero1);
  for (const C1Run& run : runs) {
    const std::string who = absl::StrCat(cluster, ", seed ", run.seed, ": ");
    const LayoutsOutcome& outcome = run.layouts[index];
    result.notes.push_back(absl::StrCat(
        who, Describe("data + expert, placed once", outcome.two_d)));
    result.notes.push_back(absl::StrCat(
        who, Describe("data + expert + pipeline, dynamic", outcome.three_d)));
  }
}

}  // namespace

absl::StatusOr<std::vector<C1Run>> RunC1(const Corpus& corpus,
                                         const C1Options& options,
                                         const C1Observer& observer,
                                         const std::function<bool()>& stop) {
  RETURN_IF_ERROR(MakeFolders(options.folder));
  const bool is_given = !options.routing.empty();
  const std::vector<uint64_t> seeds =
      is_given ? std::vector<uint64_t>{0} : options.seeds;
  std::vector<C1Run> runs;
  for (size_t i = 0; i < seeds.size(); ++i) {
    C1Run run;
    run.seed = seeds[i];
    run.trace = options.routing;
    if (!is_given) {
      SkewedRoutingOptions routing;
      routing.seed = run.seed;
      routing.steps = options.steps;
      routing.path =
          absl::StrCat(options.folder, "/c1-seed-", run.seed, ".routing");
      run.trace = routing.path;
      const auto on_step = [&](int64_t done) {
        if (!observer.on_step) return;
        observer.on_step(static_cast<int64_t>(i) * options.steps + done,
                         static_cast<int64_t>(seeds.size()) * options.steps);
      };
      RETURN_IF_ERROR(RecordSkewedRouting(corpus, routing, on_step, stop));
    }
    ASSIGN_OR_RETURN(const std::vector<sim::LoadWindow> windows,
                     sim::ReadWindows(run.trace, kWindows));
    ASSIGN_OR_RETURN(run.balance, MeasureBalance(windows, options.balance));
    ASSIGN_OR_RETURN(run.layouts, CompareLayouts(windows, options.layouts));
    if (observer.on_run) observer.on_run(run);
    runs.push_back(std::move(run));
  }
  return runs;
}

ClaimResult BalancedParallelism(const std::vector<C1Run>& runs) {
  ClaimResult result;
  result.id = "C1";
  result.title = "3-D parallelism and dynamic balancing";

  const std::string spread = "spread of utilisation over ranks";
  const auto of_plain = [](const C1Run& r) { return r.balance.plain.spread; };
  const auto of_dynamic = [](const C1Run& r) {
    return r.balance.dynamic.spread;
  };
  // Without balancing experts stand in order: a spread of 23 % is of that.
  Measure absolute =
      MeasureOf(runs, spread, "in order", of_plain, "dynamic", of_dynamic);
  Measure relative = absolute;
  absolute.of = Measure::Of::kOurs;
  absolute.ratio = absolute.ours;
  absolute.want = Measure::Want::kAtMost;
  absolute.promised = 0.05;
  result.measures.push_back(std::move(absolute));
  relative.what = spread + ", as a share (5 of 23)";
  relative.want = Measure::Want::kAtMost;
  relative.promised = 5.0 / 23;
  result.measures.push_back(std::move(relative));
  result.measures.push_back(MeasureOf(
      runs, spread + ", beside", "placed once",
      [](const C1Run& r) { return r.balance.fixed.spread; }, "dynamic",
      of_dynamic));
  result.measures.push_back(MeasureOf(
      runs, "utilisation, mean over ranks", "placed once",
      [](const C1Run& r) { return r.balance.fixed.mean; }, "dynamic",
      [](const C1Run& r) { return r.balance.dynamic.mean; }));

  Measure known = MeasureOf(
      runs, "max/mean over ranks of known recorded loads", "EPLB",
      [](const C1Run& r) { return r.balance.known.eplb; }, "ours",
      [](const C1Run& r) { return r.balance.known.ours; });
  known.want = Measure::Want::kAtMost;
  known.promised = 1;
  result.measures.push_back(std::move(known));
  Measure worst = MeasureOf(
      runs, "the same, the worst gate and window over EPLB's", "EPLB",
      [](const C1Run&) { return 1.0; }, "ours",
      [](const C1Run& r) { return r.balance.known.worst_ratio; });
  worst.want = Measure::Want::kAtMost;
  worst.promised = 1;
  result.measures.push_back(std::move(worst));

  for (size_t i = 0; i < runs[0].layouts.size(); ++i) {
    AddSteps(runs, i, result);
  }
  result.not_measured.push_back(
      "training on 256 real nodes: step times are the simulator's");
  return result;
}

nlohmann::json ToJson(const C1Run& run) {
  nlohmann::json layouts = nlohmann::json::array();
  for (const LayoutsOutcome& outcome : run.layouts) {
    layouts.push_back(ToJson(outcome));
  }
  return {{"seed", run.seed},
          {"trace", run.trace},
          {"balance", ToJson(run.balance)},
          {"layouts", std::move(layouts)}};
}

}  // namespace strata
