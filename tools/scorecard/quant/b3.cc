// B3, attention's matrix in the log domain, with caches in fewer bits as its
// companion. The specification promises no ratio: error, memory and speed are
// printed.

#include <algorithm>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "tools/scorecard/claim.h"
#include "tools/scorecard/quant/cache_study.h"
#include "training/demo/report.h"

namespace strata {
namespace {

double Median(std::vector<double> x) {
  std::nth_element(x.begin(), x.begin() + x.size() / 2, x.end());
  return x[x.size() / 2];
}

}  // namespace

ClaimResult LogDomainAttention(const std::vector<CacheRun>& runs,
                               const AttentionShape& shape,
                               const std::vector<AttentionOutcome>& attention) {
  ClaimResult result;
  result.id = "B3";
  result.title = "Attention in powers of two, caches in fewer bits";
  const std::vector<CacheVariant> variants = CacheVariants();
  const auto of_runs = [&](size_t v, double (*of)(const CacheOutcome&)) {
    std::vector<double> values;
    for (const CacheRun& run : runs) values.push_back(of(run.outcomes[v]));
    return values;
  };
  const auto add = [&](const std::string& what,
                       double (*of)(const CacheOutcome&)) {
    const std::vector<double> baseline = of_runs(0, of);
    for (size_t v = 1; v < variants.size(); ++v) {
      result.measures.push_back(
          CompareRuns(what, "f32", baseline, variants[v].name, of_runs(v, of)));
    }
  };
  add("bits a token", [](const CacheOutcome& o) { return o.bits_per_token; });
  add("next-token accuracy", [](const CacheOutcome& o) { return o.accuracy; });
  add("bytes of the cache a token", [](const CacheOutcome& o) {
    return static_cast<double>(o.bytes_per_token);
  });
  for (size_t v = 1; v < variants.size(); ++v) {
    double mean = 0;
    for (const CacheRun& run : runs) mean += run.outcomes[v].logit_error;
    result.notes.push_back(absl::StrFormat(
        "%s: logits are off by %.3f %% of their root mean square",
        variants[v].name, 100 * mean / static_cast<double>(runs.size())));
  }
  // One token, alone.
  for (size_t v = 1; v < attention.size(); ++v) {
    Measure time = CompareRuns(
        absl::StrCat("us of attention over ", shape.context, " tokens"), "f32",
        {Median(attention[0].microseconds)}, attention[v].variant,
        {Median(attention[v].microseconds)});
    result.measures.push_back(std::move(time));
  }
  for (size_t v = 1; v < attention.size(); ++v) {
    result.notes.push_back(absl::StrFormat(
        "%s: attention alone (%d heads on %d of %d columns, random, scores "
        "spread by %.0f) is off by %.2f %%; %d bytes a token, F32 %d",
        attention[v].variant, shape.num_heads, shape.num_kv_heads,
        shape.head_dim, shape.spread, 100 * attention[v].error,
        attention[v].bytes_per_token, attention[0].bytes_per_token));
  }
  result.notes.push_back(
      "the specification promises no ratio for B3; times are medians of turns "
      "on one thread");
  return result;
}

}  // namespace strata
