#include "tools/scorecard/html.h"

#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_replace.h"
#include "nlohmann/json.hpp"
#include "tools/scorecard/claim.h"
#include "tools/scorecard/runs.h"

namespace strata {
namespace {

constexpr char kStyle[] = R"(<style>
:root { color-scheme: light dark; }
body { font: 15px/1.5 system-ui, sans-serif; max-width: 64rem; margin: 2rem auto; padding: 0 1rem; }
table { border-collapse: collapse; width: 100%; margin: .5rem 0 1.5rem; font-variant-numeric: tabular-nums; }
th, td { text-align: right; padding: .25rem .6rem; border-bottom: 1px solid #8886; }
th:first-child, td:first-child { text-align: left; }
.verdict { font-weight: 600; padding: .1rem .5rem; border-radius: .3rem; color: #fff; background: #a33; }
.verdict.reached { background: #276b35; }
.missed { color: #c33; font-weight: 600; }
small, li { color: #777; }
</style>
)";

std::string Escape(const std::string& text) {
  return absl::StrReplaceAll(
      text, {{"&", "&amp;"}, {"<", "&lt;"}, {">", "&gt;"}, {"\"", "&quot;"}});
}

void AppendClaim(const ClaimResult& claim, std::string& page) {
  const bool reached = claim.verdict() != "not reached";
  absl::StrAppend(&page, "<h2>", Escape(claim.id), " ", Escape(claim.title),
                  " <span class=\"verdict", reached ? " reached" : "", "\">",
                  Escape(claim.verdict()),
                  "</span></h2>\n<table><tr><th></th>"
                  "<th>baseline</th><th>ours</th><th>ratio</th></tr>\n");
  for (const Measure& m : claim.measures) {
    absl::StrAppend(&page, "<tr><td>", Escape(m.what), "<br><small>",
                    Escape(m.baseline_name), " → ", Escape(m.ours_name),
                    "</small></td><td>", FormatSpread(m.baseline), "</td><td>",
                    FormatSpread(m.ours), "</td><td",
                    m.reached() ? "" : " class=\"missed\"", ">",
                    Escape(FormatRatio(m)), "</td></tr>\n");
  }
  absl::StrAppend(&page, "</table>\n");
  if (!claim.not_measured.empty()) {
    absl::StrAppend(&page, "<p>Not measured:</p><ul>\n");
    for (const std::string& part : claim.not_measured) {
      absl::StrAppend(&page, "<li>", Escape(part), "</li>\n");
    }
    absl::StrAppend(&page, "</ul>\n");
  }
}

}  // namespace

std::string FormatSpread(const Spread& spread) {
  return spread.mean >= 1000
             ? absl::StrFormat("%.0f ± %.0f", spread.mean, spread.deviation)
             : absl::StrFormat("%.4f ± %.4f", spread.mean, spread.deviation);
}

std::string FormatRatio(const Measure& measure) {
  std::string text =
      absl::StrFormat(measure.difference ? "%+.4f ± %.4f" : "%.4f ± %.4f",
                      measure.ratio.mean, measure.ratio.deviation);
  if (measure.want != Measure::Want::kNone) {
    absl::StrAppendFormat(
        &text, " (want at %s %.4g)",
        measure.want == Measure::Want::kAtMost ? "most" : "least",
        measure.promised);
  }
  return text;
}

std::string ScorecardPage(const std::vector<ClaimResult>& claims,
                          const std::vector<ScoredRun>& runs,
                          const nlohmann::json& manifest) {
  std::string page = absl::StrCat(
      "<!doctype html>\n<html lang=\"en\"><meta charset=\"utf-8\">\n<meta "
      "name=\"viewport\" content=\"width=device-width\">\n<title>Strata "
      "scorecard</title>\n",
      kStyle,
      "<h1>Scorecard</h1>\n<p>Mean ± standard deviation over seeds; ratios are "
      "taken seed by seed.</p>\n");
  for (const ClaimResult& claim : claims) AppendClaim(claim, page);
  absl::StrAppend(&page,
                  "<h2>Runs</h2>\n<table><tr><th>run</th><th>seed</th><th>bits "
                  "per byte</th><th>accuracy</th><th>experts active</th>"
                  "<th>Gini</th><th>utilisation</th></tr>\n");
  for (const ScoredRun& run : runs) {
    absl::StrAppendFormat(
        &page,
        "<tr><td>%s</td><td>%d</td><td>%.4f</td><td>%.4f</td><td>%.1f "
        "%%</td><td>%.3f</td><td>%.3f</td></tr>\n",
        Escape(run.variant), run.seed, run.bits_per_byte, run.accuracy,
        100 * run.experts.active_share, run.experts.gini,
        run.experts.utilisation);
  }
  absl::StrAppend(&page, "</table>\n<h2>Made from</h2>\n<pre>",
                  Escape(manifest.dump(2)), "</pre>\n</html>\n");
  return page;
}

}  // namespace strata
