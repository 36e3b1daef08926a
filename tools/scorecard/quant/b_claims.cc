// B1, weights in INT4: the whole served model at least 2.89 times smaller than
// in BF16, with less than 1.2 % of its accuracy lost. B4, learned compensation:
// the energy of x (w - w')^T at most 0.29 of what round-to-nearest a row
// leaves.

#include <cmath>
#include <cstdint>
#include <functional>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "core/model/config.h"
#include "core/quant/cache_format.h"
#include "tools/scorecard/claim.h"
#include "tools/scorecard/quant/quantisation.h"
#include "training/demo/report.h"

namespace strata {
namespace {

constexpr char kLargePreset[] = "strata-1b";
constexpr int64_t kLargeContext = 2048;

using Value = std::function<double(const QuantRun&)>;

Measure MeasureOf(const std::vector<QuantRun>& runs, const std::string& what,
                  const std::string& baseline_name, const Value& baseline,
                  const std::string& ours_name, const Value& ours) {
  std::vector<double> a, b;
  for (const QuantRun& run : runs) {
    a.push_back(baseline(run));
    b.push_back(ours(run));
  }
  return CompareRuns(what, baseline_name, a, ours_name, b);
}

Measure Promised(Measure measure, Measure::Want want, double promised) {
  measure.want = want;
  measure.promised = promised;
  return measure;
}

const QuantOutcome& OutcomeOf(const QuantRun& run, const std::string& variant) {
  for (const QuantOutcome& outcome : run.outcomes) {
    if (outcome.variant == variant) return outcome;
  }
  return run.outcomes.back();
}

Value OutputError(const std::string& variant) {
  return [variant](const QuantRun& run) {
    const QuantError& e = OutcomeOf(run, variant).error;
    return e.output_error / e.output;
  };
}

Value WeightError(const std::string& variant) {
  return [variant](const QuantRun& run) {
    const QuantError& e = OutcomeOf(run, variant).error;
    return e.weight_error / e.weight;
  };
}

std::string Megabytes(const ServedMemory& m) {
  return absl::StrFormat("%.2f MB (weights %.2f, caches %.2f, arena %.2f)",
                         1e-6 * m.total(), 1e-6 * m.weights, 1e-6 * m.caches,
                         1e-6 * m.arena);
}

}  // namespace

ClaimResult QuantisedWeights(const std::vector<QuantRun>& runs) {
  ClaimResult result;
  result.id = "B1";
  result.title = "INT4 weights";
  // The ratio is the baseline's bytes over ours.
  Measure memory = MeasureOf(
      runs, "", "", [](const QuantRun& r) { return r.ours.total(); }, "",
      [](const QuantRun& r) { return r.baseline.total(); });
  std::swap(memory.baseline, memory.ours);
  memory.what = absl::StrCat("bytes of the served model, one sequence of ",
                             runs.empty() ? 0 : runs[0].context,
                             " tokens (baseline / ours)");
  memory.baseline_name = "weights and caches in BF16";
  memory.ours_name = "learned-group";
  result.measures.push_back(
      Promised(std::move(memory), Measure::Want::kAtLeast, 2.89));
  Measure weights = MeasureOf(
      runs, "", "", [](const QuantRun& r) { return r.ours.weights; }, "",
      [](const QuantRun& r) { return r.baseline.weights; });
  std::swap(weights.baseline, weights.ours);
  weights.what = "bytes of weights alone (baseline / ours)";
  weights.baseline_name = "BF16";
  weights.ours_name = "learned-group";
  result.measures.push_back(std::move(weights));
  const auto before = [](const QuantRun& r) { return r.accuracy; };
  const auto after = [](const QuantRun& r) {
    return r.outcomes.back().accuracy;
  };
  result.measures.push_back(
      Promised(MeasureOf(runs, "next-token accuracy", "F32", before,
                         "learned-group", after),
               Measure::Want::kAtLeast, 1 - 0.012));
  result.measures.push_back(MeasureOf(
      runs, "validation bits per byte", "F32",
      [](const QuantRun& r) { return r.bits_per_byte; }, "learned-group",
      [](const QuantRun& r) { return r.outcomes.back().bits_per_byte; }));
  result.measures.push_back(MeasureOf(
      runs, "next-token accuracy, beside", "F32", before, "nearest-row",
      [](const QuantRun& r) { return OutcomeOf(r, "nearest-row").accuracy; }));
  // A model of the size that memory matters for, from its graphs.
  const absl::StatusOr<ModelConfig> large = ModelPreset(kLargePreset);
  for (const CacheFormat cache : {CacheFormat::kF32, CacheFormat::kBF16,
                                  CacheFormat::kInt8, CacheFormat::kInt4}) {
    ServedMemory bf16;
    const absl::StatusOr<ServedMemory> planned =
        large.ok() ? PlanServedMemory(*large, {4, 32, true}, cache,
                                      kLargeContext, bf16)
                   : large.status();
    if (!planned.ok()) break;
    result.notes.push_back(absl::StrFormat(
        "planned, not run: preset %s, one sequence of %d tokens: BF16 %s; ours "
        "with caches in %s %s; ratio %.3f",
        kLargePreset, kLargeContext, Megabytes(bf16), ToText(cache),
        Megabytes(*planned),
        static_cast<double>(bf16.total()) /
            static_cast<double>(planned->total())));
  }
  for (const QuantRun& run : runs) {
    result.notes.push_back(absl::StrCat("seed ", run.seed, ": BF16 ",
                                        Megabytes(run.baseline), "; ours ",
                                        Megabytes(run.ours)));
  }
  result.notes.push_back(
      "ours has caches in INT8, gates and norms in F32; accuracy is of "
      "activations and caches in F32 (caches in INT8: see B3)");
  result.not_measured.push_back("each scenario's own metric (D1 to D4)");
  return result;
}

ClaimResult LearnedCompensation(const std::vector<QuantRun>& runs) {
  ClaimResult result;
  result.id = "B4";
  result.title = "Learned compensation";
  const std::string outputs = "energy of x (w - w')^T over that of x w^T";
  result.measures.push_back(Promised(
      MeasureOf(runs, outputs, "nearest-row", OutputError("nearest-row"),
                "learned-group", OutputError("learned-group")),
      Measure::Want::kAtMost, 0.29));
  const auto add = [&](const std::string& baseline, const std::string& ours) {
    result.measures.push_back(MeasureOf(runs, outputs + ", beside", baseline,
                                        OutputError(baseline), ours,
                                        OutputError(ours)));
  };
  add("nearest-group", "learned-group");  // What learning adds ...
  add("nearest-row", "nearest-group");    // ... and what groups do.
  add("nearest-row", "learned-row");
  add("nearest-group", "clip-group");
  add("nearest-group", "feedback-group");
  const std::string of_weights = "energy of w - w' over that of w";
  result.measures.push_back(
      MeasureOf(runs, of_weights, "nearest-row", WeightError("nearest-row"),
                "learned-group", WeightError("learned-group")));
  result.measures.push_back(
      MeasureOf(runs, of_weights, "nearest-group", WeightError("nearest-group"),
                "learned-group", WeightError("learned-group")));
  // A Gaussian source at R bits: D = 2^-2R of its variance (Cover and Thomas,
  // "Elements of Information Theory", theorem 10.3.2).
  result.measures.push_back(MeasureOf(
      runs, of_weights + ", against the bound of a Gaussian at those bits",
      "2^-2R",
      [](const QuantRun& r) {
        return std::exp2(-2 * OutcomeOf(r, "learned-group").bits_per_weight);
      },
      "learned-group", WeightError("learned-group")));
  for (const QuantVariant& variant : QuantVariants()) {
    if (runs.empty()) break;
    const QuantOutcome& outcome = OutcomeOf(runs[0], variant.name);
    result.notes.push_back(absl::StrFormat(
        "%s: %.3f bits a weight with scales; bound at those bits %.3f %%",
        variant.name, outcome.bits_per_weight,
        100 * std::exp2(-2 * outcome.bits_per_weight)));
  }
  return result;
}

}  // namespace strata
