#include "sim/report/html_report.h"

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/string_view.h"
#include "core/parallel/pipeline_schedule.h"
#include "core/parallel/pipeline_timeline.h"
#include "sim/memory/footprint.h"
#include "sim/report/page.h"
#include "sim/report/step_report.h"
#include "sim/workload/layout.h"

namespace strata::sim {
namespace {

constexpr double kGiB = static_cast<double>(int64_t{1} << 30);
// A timeline beyond this is thinned: slices below a pixel join.
constexpr size_t kMaxSlices = 20000;

const char* ColourOf(PipelineItem::Kind kind) {
  switch (kind) {
    case PipelineItem::Kind::kForward:
      return "#3b6ea5";
    case PipelineItem::Kind::kBackward:
      return "#5a9a5a";
    case PipelineItem::Kind::kInputGrad:
      return "#2a8a8a";
    case PipelineItem::Kind::kWeightGrad:
      return "#d08b2c";
    case PipelineItem::Kind::kForwardBackward:
      return "#8a63a6";
  }
  return "#000";
}

std::string Timeline(const StepResult& result) {
  const size_t devices = result.timeline.items.size();
  const int row = static_cast<int>(std::clamp<size_t>(400 / devices, 6, 22));
  const double left = 60;
  const double scale = (kChartWidth - left) / (result.seconds * 1e12);
  std::string svg = absl::StrCat("<div class=\"scroll\">",
                                 OpenSvg(static_cast<int>(devices) * row + 20,
                                         "timeline of the pipeline"));
  size_t slices = 0;
  for (size_t d = 0; d < devices; ++d) {
    if (row >= 12 || d % 4 == 0) {
      absl::StrAppendFormat(&svg, "<text x=\"0\" y=\"%d\">stage %d</text>\n",
                            static_cast<int>(d) * row + row - 2, d);
    }
    double open_until = -1;  // Of a slice too thin to draw.
    for (size_t i = 0; i < result.timeline.items[d].size(); ++i) {
      const TimelineItem& time = result.timeline.items[d][i];
      const double x = left + time.start * scale;
      const double w = (time.end - time.start) * scale;
      if (slices >= kMaxSlices || x + w < open_until) continue;
      open_until = x + 0.5;
      ++slices;
      absl::StrAppendFormat(
          &svg,
          "<rect x=\"%.2f\" y=\"%d\" width=\"%.2f\" height=\"%d\" "
          "fill=\"%s\"/>\n",
          x, static_cast<int>(d) * row, std::max(0.3, w - 0.2), row - 1,
          ColourOf(result.schedule.items[d][i].kind));
    }
    const double end = left + result.timeline.total * scale;
    absl::StrAppendFormat(&svg,
                          "<rect x=\"%.2f\" y=\"%d\" width=\"%.2f\" "
                          "height=\"%d\" fill=\"#b34a4a\"/>\n",
                          end, static_cast<int>(d) * row,
                          std::max(0.0, kChartWidth - end), row - 1);
  }
  absl::StrAppendFormat(&svg,
                        "<text x=\"%.0f\" y=\"%d\">0</text><text x=\"%d\" "
                        "y=\"%d\" text-anchor=\"end\">%.4g s</text>\n",
                        left, static_cast<int>(devices) * row + 15, kChartWidth,
                        static_cast<int>(devices) * row + 15, result.seconds);
  svg += "</svg></div>\n<p class=\"sub key\">";
  for (const auto& [name, kind] :
       std::vector<std::pair<const char*, PipelineItem::Kind>>{
           {"forward", PipelineItem::Kind::kForward},
           {"backward", PipelineItem::Kind::kBackward},
           {"input gradient", PipelineItem::Kind::kInputGrad},
           {"weight gradient", PipelineItem::Kind::kWeightGrad},
           {"overlapped pair", PipelineItem::Kind::kForwardBackward}}) {
    absl::StrAppendFormat(
        &svg, "<span><span style=\"color:%s\">&#9632;</span> %s</span> ",
        ColourOf(kind), name);
  }
  return svg +
         "<span><span style=\"color:#b34a4a\">&#9632;</span> gradients, "
         "weights, optimizer</span></p>\n";
}

std::string Line(const std::vector<double>& values, double top, int height,
                 const char* colour) {
  std::string points;
  for (size_t i = 0; i < values.size(); ++i) {
    const double x =
        40 + (kChartWidth - 50) * (values.size() > 1 ? static_cast<double>(i) /
                                                           (values.size() - 1)
                                                     : 0.5);
    absl::StrAppendFormat(&points, "%.1f,%.1f ", x,
                          height - 20 - values[i] / top * (height - 30));
  }
  return absl::StrFormat(
      "<polyline points=\"%s\" fill=\"none\" stroke=\"%s\" "
      "stroke-width=\"2\"/>\n",
      points, colour);
}

std::string Balance(const std::vector<BalancePoint>& balance) {
  constexpr int kHeight = 180;
  std::vector<double> fixed;
  std::vector<double> balanced;
  for (const BalancePoint& point : balance) {
    fixed.push_back(point.spread_static);
    balanced.push_back(point.spread_balanced);
  }
  const double top =
      std::max(1e-3, 1.1 * *std::max_element(fixed.begin(), fixed.end()));
  std::string html = "<h2>Spread of utilisation over ranks</h2>\n";
  html += OpenSvg(kHeight, "spread of utilisation over time");
  html += Line(fixed, top, kHeight, "#b34a4a");
  html += Line(balanced, top, kHeight, "#3b6ea5");
  absl::StrAppendFormat(&html,
                        "<text x=\"0\" y=\"14\">%.0f %%</text><text x=\"0\" "
                        "y=\"%d\">0</text><text x=\"40\" y=\"%d\">step "
                        "%d</text><text x=\"%d\" y=\"%d\" "
                        "text-anchor=\"end\">step %d</text></svg>\n",
                        100 * top, kHeight - 20, kHeight - 4,
                        balance.front().first_step, kChartWidth, kHeight - 4,
                        balance.back().last_step);
  return html +
         "<p class=\"sub\"><span style=\"color:#b34a4a\">&#9632;</span> "
         "experts "
         "stay where they are <span style=\"color:#3b6ea5\">&#9632;</span> "
         "placed anew from the window before</p>\n";
}

std::string MemoryTable(const StepResult& result) {
  std::string html =
      "<div class=\"scroll\"><table><tr><th>stage</th><th>busy s</th><th>idle "
      "s</th>"
      "<th>weights</th><th>gradients</th><th>optimizer</th>"
      "<th>activations</th><th>buffers</th><th>total GiB</th></tr>\n";
  for (size_t d = 0; d < result.devices.size(); ++d) {
    const DeviceSummary& device = result.devices[d];
    const Footprint& f = device.memory;
    absl::StrAppendFormat(
        &html,
        "<tr><td>%d</td><td>%.3f</td><td>%.3f</td><td>%.1f</td><td>%.1f</td>"
        "<td>%.1f</td><td>%.1f</td><td>%.1f</td><td>%.1f</td></tr>\n",
        d, device.busy_seconds, device.idle_seconds, f.weights / kGiB,
        f.gradients / kGiB, f.optimizer / kGiB, f.activations / kGiB,
        f.buffers / kGiB, f.total() / kGiB);
  }
  return html + "</table></div>\n";
}

}  // namespace

std::string HtmlReport(const StepReport& report,
                       const std::vector<BalancePoint>& balance) {
  const StepResult& r = report.result;
  std::string html = absl::StrCat(
      "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\n"
      "<meta name=\"viewport\" content=\"width=device-width\">\n<title>",
      Escaped(report.scenario.model), " on ", Escaped(report.scenario.cluster),
      "</title>\n", kPageStyle, "</head><body>\n<h1>",
      Escaped(report.scenario.model), " on ", report.inputs.machine.num_gpus,
      " x ", Escaped(report.inputs.machine.gpu), "</h1>\n<p class=\"sub\">",
      Escaped(ToString(report.inputs.layout)), ", ",
      Escaped(report.scenario.schedule), "</p>\n<dl>\n");
  html += Figure("step", absl::StrFormat("%.4g", r.seconds),
                 r.error_share > 0 ? absl::StrFormat("s, calibration ±%.0f %%",
                                                     100 * r.error_share)
                                   : "s, no kernel measured");
  html +=
      Figure("throughput", absl::StrFormat("%.0f", r.tokens_per_second_per_gpu),
             "tokens/s/GPU");
  html +=
      Figure("utilisation", absl::StrFormat("%.1f %%", 100 * r.mfu_causal),
             absl::StrFormat("MFU, %.0f TFLOP/s/GPU", r.tflops_per_gpu_causal));
  html +=
      Figure("pipeline idle", absl::StrFormat("%.1f %%", 100 * r.bubble_share),
             "of all stages");
  html += Figure("cost", absl::StrFormat("$%.4g", r.dollars),
                 absl::StrFormat("and %.4g kWh a step", r.kwh));
  html += Figure("memory", r.memory.fits() ? "fits" : "out of memory",
                 absl::StrFormat("%.1f of %.0f GiB", r.memory.total() / kGiB,
                                 r.memory.capacity / kGiB));
  html += "</dl>\n<h2>Where the time goes</h2>\n";
  std::vector<PageBar> parts;
  for (const StepPart& part : r.parts) {
    parts.push_back({part.name, part.seconds, parts.size()});
  }
  html += Bars(parts, "s", r.seconds, "where the time of a step goes");
  absl::StrAppend(&html, "<p>Critical path: ", Escaped(r.critical_path),
                  ".</p>\n<h2>Timeline</h2>\n", Timeline(r),
                  absl::StrFormat("<h2>Memory of the fullest rank, share of "
                                  "%.0f GiB</h2>\n",
                                  r.memory.capacity / kGiB));
  html += Bars({{"weights", r.memory.weights / kGiB, 0},
                {"gradients", r.memory.gradients / kGiB, 1},
                {"optimizer", r.memory.optimizer / kGiB, 2},
                {"activations", r.memory.activations / kGiB, 3},
                {"buffers", r.memory.buffers / kGiB, 4}},
               "GiB", r.memory.capacity / kGiB, "memory by use");
  if (!balance.empty()) html += Balance(balance);
  absl::StrAppend(&html, "<h2>Stages</h2>\n", MemoryTable(r));
  if (!r.warnings.empty()) {
    html += "<h2>Warnings</h2>\n<ul>\n";
    for (const std::string& warning : r.warnings) {
      absl::StrAppend(&html, "<li>", Escaped(warning), "</li>\n");
    }
    html += "</ul>\n";
  }
  return html + "</body></html>\n";
}

}  // namespace strata::sim
