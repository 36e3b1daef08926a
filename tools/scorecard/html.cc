#include "tools/scorecard/html.h"

#include <algorithm>
#include <cstddef>
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
.verdict { white-space: nowrap; font-weight: 600; padding: .1rem .5rem; border-radius: .3rem; color: #fff; background: #a33; }
.verdict.reached { background: #276b35; }
.scroll { overflow-x: auto; } .scroll svg { min-width: 560px; }
td:first-child { min-width: 11rem; } td + td { white-space: nowrap; }
li { overflow-wrap: anywhere; } pre { overflow-x: auto; }
svg { width: 100%; font-size: 11px; fill: currentColor; }
.axis { stroke: currentColor; fill: none; }
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
                  "</span></h2>\n<div class=\"scroll\"><table><tr><th></th>"
                  "<th>baseline</th><th>ours</th><th>ratio</th></tr>\n");
  for (const Measure& m : claim.measures) {
    absl::StrAppend(&page, "<tr><td>", Escape(m.what), "<br><small>",
                    Escape(m.baseline_name), " → ", Escape(m.ours_name),
                    "</small></td><td>", FormatSpread(m.baseline), "</td><td>",
                    FormatSpread(m.ours), "</td><td",
                    m.reached() ? "" : " class=\"missed\"", ">",
                    Escape(FormatRatio(m)), "</td></tr>\n");
  }
  absl::StrAppend(&page, "</table></div>\n");
  if (!claim.notes.empty()) {
    absl::StrAppend(&page, "<ul>\n");
    for (const std::string& note : claim.notes) {
      absl::StrAppend(&page, "<li>", Escape(note), "</li>\n");
    }
    absl::StrAppend(&page, "</ul>\n");
  }
  if (!claim.not_measured.empty()) {
    absl::StrAppend(&page, "<p>Not measured:</p><ul>\n");
    for (const std::string& part : claim.not_measured) {
      absl::StrAppend(&page, "<li>", Escape(part), "</li>\n");
    }
    absl::StrAppend(&page, "</ul>\n");
  }
}

// A variant's runs as a point: what it uses and what it is worth.
struct Point {
  std::string variant;
  double active_share = 0;
  double accuracy = 0;
};

// In the order in which the variants come.
std::vector<Point> PointsOf(const std::vector<ScoredRun>& runs) {
  std::vector<Point> points;
  std::vector<int> counts;
  for (const ScoredRun& run : runs) {
    size_t at = 0;
    while (at < points.size() && points[at].variant != run.variant) ++at;
    if (at == points.size()) {
      points.emplace_back();
      points.back().variant = run.variant;
      counts.push_back(0);
    }
    points[at].active_share += run.experts.active_share;
    points[at].accuracy += run.accuracy;
    ++counts[at];
  }
  for (size_t i = 0; i < points.size(); ++i) {
    points[i].active_share /= counts[i];
    points[i].accuracy /= counts[i];
  }
  return points;
}

// Accuracy over the share of experts, a point a variant: whether more experts
// are worth anything.
void AppendCurve(const std::vector<ScoredRun>& runs, std::string& page) {
  constexpr double kWidth = 640, kHeight = 260, kMargin = 50;
  const std::vector<Point> points = PointsOf(runs);
  if (points.size() < 2) return;
  double low = points[0].accuracy, high = low, most = 0;
  for (const Point& point : points) {
    low = std::min(low, point.accuracy);
    high = std::max(high, point.accuracy);
    most = std::max(most, point.active_share);
  }
  const double range = high > low ? high - low : 1;
  absl::StrAppendFormat(
      &page,
      "<h2>Accuracy over the share of experts</h2>\n<div "
      "class=\"scroll\"><svg viewBox=\"0 0 %g "
      "%g\" role=\"img\">\n<path d=\"M%g 10V%gH%g\" class=\"axis\"/>\n"
      "<text x=\"%g\" y=\"%g\">experts active per token, to %.0f %%</text>"
      "\n<text x=\"4\" y=\"20\">%.3f</text><text x=\"4\" "
      "y=\"%g\">%.3f</text>\n",
      kWidth, kHeight, kMargin, kHeight - kMargin, kWidth - 10, kMargin,
      kHeight - 10, 100 * most, high, kHeight - kMargin, low);
  for (const Point& point : points) {
    const double x = kMargin + (kWidth - 3 * kMargin) * point.active_share /
                                   std::max(most, 1e-9);
    const double y = kHeight - kMargin - 10 -
                     (kHeight - kMargin - 30) * (point.accuracy - low) / range;
    absl::StrAppendFormat(&page,
                          "<circle cx=\"%.1f\" cy=\"%.1f\" r=\"4\"/><text "
                          "x=\"%.1f\" y=\"%.1f\">%s</text>\n",
                          x, y, x + 7, y + 4, Escape(point.variant));
  }
  absl::StrAppend(&page, "</svg></div>\n");
}

void AppendRuns(const std::vector<ScoredRun>& runs, std::string& page) {
  absl::StrAppend(
      &page,
      "<h2>Runs</h2>\n<p>FLOPs are of experts, a token, forward: "
      "at validation, and the mean over training.</p>\n"
      "<div class=\"scroll\"><table><tr><th>run</th><th>seed</th><th>bits per "
      "byte</th>"
      "<th>accuracy</th><th>experts active</th><th>MFLOPs</th>"
      "<th>in training</th><th>Gini</th><th>utilisation</th>"
      "<th>cold start</th><th>CKA</th></tr>\n");
  for (const ScoredRun& run : runs) {
    absl::StrAppendFormat(
        &page,
        "<tr><td>%s</td><td>%d</td><td>%.4f</td><td>%.4f</td><td>%.1f "
        "%%</td><td>%.3f</td><td>%.3f</td><td>%.3f</td><td>%.3f</td>",
        Escape(run.variant), run.seed, run.bits_per_byte, run.accuracy,
        100 * run.experts.active_share, run.experts.flops_per_token / 1e6,
        run.train_flops_per_token / 1e6, run.experts.gini,
        run.experts.utilisation);
    if (run.probes.is_null()) {
      absl::StrAppend(&page, "<td>–</td><td>–</td></tr>\n");
    } else {
      absl::StrAppendFormat(&page, "<td>%.1f</td><td>%.3f</td></tr>\n",
                            run.cold_start_steps, run.redundancy);
    }
  }
  absl::StrAppend(&page, "</table></div>\n");
}

}  // namespace

std::string FormatSpread(const Spread& spread) {
  return spread.mean >= 1000
             ? absl::StrFormat("%.0f ± %.0f", spread.mean, spread.deviation)
             : absl::StrFormat("%.4f ± %.4f", spread.mean, spread.deviation);
}

std::string FormatRatio(const Measure& measure) {
  std::string text =
      measure.of == Measure::Of::kOurs
          ? "ours"
          : absl::StrFormat(measure.of == Measure::Of::kDifference
                                ? "%+.4f ± %.4f"
                                : "%.4f ± %.4f",
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
  AppendCurve(runs, page);
  if (!runs.empty()) AppendRuns(runs, page);
  absl::StrAppend(&page, "<h2>Made from</h2>\n<pre>", Escape(manifest.dump(2)),
                  "</pre>\n</html>\n");
  return page;
}

}  // namespace strata
