#include <algorithm>
#include <array>
#include <cmath>
#include <cstddef>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "nlohmann/json.hpp"
#include "sim/chakra/workload.h"
#include "sim/engine/time.h"
#include "sim/replay/replay.h"
#include "sim/replay/replay_summary.h"
#include "sim/replay/trace_plan.h"
#include "sim/report/page.h"
#include "sim/report/replay_report.h"

namespace strata::sim {
namespace {

constexpr size_t kShownRanks = 64;
constexpr size_t kMaxSlices = 20000;
constexpr int kFirstCommThread = 3;

bool IsComm(NodeRole role) {
  return role == NodeRole::kCollective || role == NodeRole::kSend ||
         role == NodeRole::kReceive;
}

// As a JSON string; names are any bytes.
std::string Quoted(const std::string& text) {
  return nlohmann::json(text).dump(-1, ' ', false,
                                   nlohmann::json::error_handler_t::replace);
}

// When the node began to do something, waiting for others included.
Picoseconds BeginOf(const TracePlan& plan, const ReplayResult& result,
                    NodeIndex node) {
  return IsComm(plan.role[node]) ? result.times[node].joined
                                 : result.times[node].start;
}

// A thread for each node of a rank, so that those of one thread do not overlap.
std::vector<int> ThreadsOf(const ReplayResult& result, int rank) {
  const TracePlan& plan = result.plan;
  const NodeIndex first = plan.first_node[rank];
  std::vector<int> thread(plan.first_node[rank + 1] - first, -1);
  std::vector<NodeIndex> comms;
  for (size_t i = 0; i < thread.size(); ++i) {
    const NodeIndex node = first + static_cast<NodeIndex>(i);
    switch (plan.role[node]) {
      case NodeRole::kCompute:
        thread[i] = 0;
        break;
      case NodeRole::kHost:
        thread[i] = 1;
        break;
      case NodeRole::kMemory:
        thread[i] = 2;
        break;
      case NodeRole::kNothing:
        break;
      default:
        comms.push_back(node);
    }
  }
  std::stable_sort(comms.begin(), comms.end(), [&](NodeIndex a, NodeIndex b) {
    return result.times[a].joined < result.times[b].joined;
  });
  std::vector<Picoseconds> free_at;  // [communication threads]
  for (const NodeIndex node : comms) {
    size_t lane = 0;
    while (lane < free_at.size() && free_at[lane] > result.times[node].joined) {
      ++lane;
    }
    if (lane == free_at.size()) free_at.push_back(0);
    free_at[lane] = result.times[node].end;
    thread[node - first] = kFirstCommThread + static_cast<int>(lane);
  }
  return thread;
}

std::string ThreadName(int thread) {
  switch (thread) {
    case 0:
      return "computations";
    case 1:
      return "host";
    case 2:
      return "loads and stores";
    default:
      return thread == kFirstCommThread
                 ? "communication"
                 : absl::StrCat("communication ",
                                thread - kFirstCommThread + 1);
  }
}

// Microseconds, to whole nanoseconds: viewers count in them, and a slice that
// ends a rounding after the next begins would hold it.
double TraceTime(Picoseconds time) {
  return std::round(static_cast<double>(time) / 1e3) / 1e3;
}

void AppendRank(const ReplayReport& report, int rank, std::string& text) {
  const ReplayResult& result = *report.result;
  const TracePlan& plan = result.plan;
  absl::StrAppendFormat(&text,
                        ",\n{\"ph\":\"M\",\"pid\":%d,\"name\":\"process_name\","
                        "\"args\":{\"name\":\"rank %d\"}}"
                        ",\n{\"ph\":\"M\",\"pid\":%d,\"name\":"
                        "\"process_sort_index\",\"args\":{\"sort_index\":%d}}",
                        rank, rank, rank, rank);
  const std::vector<int> thread = ThreadsOf(result, rank);
  std::vector<bool> named;
  for (size_t i = 0; i < thread.size(); ++i) {
    if (thread[i] < 0) continue;
    if (named.size() <= static_cast<size_t>(thread[i])) {
      named.resize(thread[i] + 1);
    }
    if (!named[thread[i]]) {
      named[thread[i]] = true;
      absl::StrAppendFormat(&text,
                            ",\n{\"ph\":\"M\",\"pid\":%d,\"tid\":%d,\"name\":"
                            "\"thread_name\",\"args\":{\"name\":\"%s\"}}",
                            rank, thread[i], ThreadName(thread[i]));
    }
    const NodeIndex node = plan.first_node[rank] + static_cast<NodeIndex>(i);
    const NodeTime& time = result.times[node];
    const chakra::TraceNode& trace = plan.Node(node);
    const Picoseconds begin = BeginOf(plan, result, node);
    absl::StrAppendFormat(
        &text,
        ",\n{\"ph\":\"X\",\"pid\":%d,\"tid\":%d,\"name\":%s,\"cat\":\"%s\","
        "\"ts\":%.3f,\"dur\":%.3f,\"args\":{\"id\":%d,\"waited_us\":%.6f",
        rank, thread[i], Quoted(trace.name), NameOf(PartOf(plan, node)),
        TraceTime(begin), TraceTime(time.end) - TraceTime(begin), trace.id,
        ToMicroseconds(time.start - time.joined));
    if (trace.comm_bytes.has_value()) {
      absl::StrAppendFormat(&text, ",\"bytes\":%d", *trace.comm_bytes);
    }
    absl::StrAppend(&text, "}}");
    if (plan.role[node] != NodeRole::kSend &&
        plan.role[node] != NodeRole::kReceive) {
      continue;
    }
    // An arrow binds to the slice that its time is in, of which its end is no
    // part.
    const bool is_send = plan.role[node] == NodeRole::kSend;
    absl::StrAppendFormat(
        &text,
        ",\n{\"ph\":\"%s\",\"pid\":%d,\"tid\":%d,\"name\":\"message\",\"cat\":"
        "\"message\",\"id\":%d,\"ts\":%.3f%s}",
        is_send ? "s" : "f", rank, thread[i], is_send ? node : plan.peer[node],
        is_send ? TraceTime(begin)
                : std::max(TraceTime(begin), TraceTime(time.end) - 1e-3),
        is_send ? "" : ",\"bp\":\"e\"");
  }
}

// A rank's row: computations in the upper half, communication below.
void AppendRow(const ReplayResult& result, int rank, double y, double row,
               double left, double scale, size_t& slices, std::string& svg) {
  const TracePlan& plan = result.plan;
  std::array<double, 3> open_until = {-1, -1, -1};
  std::vector<NodeIndex> nodes;
  for (NodeIndex n = plan.first_node[rank]; n < plan.first_node[rank + 1];
       ++n) {
    if (plan.role[n] != NodeRole::kNothing) nodes.push_back(n);
  }
  std::stable_sort(nodes.begin(), nodes.end(), [&](NodeIndex a, NodeIndex b) {
    return BeginOf(plan, result, a) < BeginOf(plan, result, b);
  });
  const auto draw = [&](Picoseconds begin, Picoseconds end, ReplayPart part,
                        size_t lane) {
    const double x = left + static_cast<double>(begin) * scale;
    const double w = static_cast<double>(end - begin) * scale;
    if (end <= begin || slices >= kMaxSlices || x + w < open_until[lane]) {
      return;
    }
    open_until[lane] = x + 0.5;
    ++slices;
    absl::StrAppendFormat(
        &svg,
        "<rect x=\"%.2f\" y=\"%.1f\" width=\"%.2f\" height=\"%.1f\" "
        "fill=\"%s\"/>\n",
        x, y + (lane == 0 ? 0 : row / 2), std::max(0.3, w), row / 2 - 0.5,
        ChartColour(static_cast<size_t>(part)));
  };
  for (const NodeIndex node : nodes) {
    const NodeTime& time = result.times[node];
    if (!IsComm(plan.role[node])) {
      draw(time.start, time.end, PartOf(plan, node),
           plan.role[node] == NodeRole::kCompute ? 0 : 1);
      continue;
    }
    draw(time.joined, time.met,
         plan.role[node] == NodeRole::kCollective ? ReplayPart::kLateRanks
                                                  : ReplayPart::kLateSend,
         2);
    draw(time.met, time.end, PartOf(plan, node), 1);
  }
}

std::string Timeline(const ReplayReport& report) {
  const ReplayResult& result = *report.result;
  const size_t ranks = std::min(kShownRanks, report.summary.ranks.size());
  const double row = std::clamp<double>(480.0 / ranks, 10, 26);
  const double left = 60;
  const double scale =
      (kChartWidth - left) /
      static_cast<double>(std::max<Picoseconds>(1, result.total));
  std::string svg = absl::StrCat(
      "<div class=\"scroll\">",
      OpenSvg(static_cast<int>(ranks * row) + 20, "ranks over time"));
  size_t slices = 0;
  for (size_t rank = 0; rank < ranks; ++rank) {
    const double y = static_cast<double>(rank) * row;
    if (row >= 14 || rank % 4 == 0) {
      absl::StrAppendFormat(&svg, "<text x=\"0\" y=\"%.0f\">rank %d</text>\n",
                            y + row / 2 + 4, rank);
    }
    AppendRow(result, static_cast<int>(rank), y, row, left, scale, slices, svg);
  }
  absl::StrAppendFormat(
      &svg,
      "<text x=\"%.0f\" y=\"%.0f\">0</text><text x=\"%d\" y=\"%.0f\" "
      "text-anchor=\"end\">%.4g ms</text>\n</svg></div>\n<p class=\"sub key\">",
      left, ranks * row + 15, kChartWidth, ranks * row + 15,
      report.Seconds() * 1e3);
  for (int part = 0; part < static_cast<int>(ReplayPart::kIdle); ++part) {
    const bool is_there = std::any_of(
        report.summary.ranks.begin(), report.summary.ranks.end(),
        [&](const RankSummary& rank) { return rank.parts[part] > 0; });
    if (!is_there) continue;
    std::string name(NameOf(static_cast<ReplayPart>(part)));
    absl::StrAppend(&svg, "<span><span style=\"color:", ChartColour(part),
                    "\">&#9632;</span>", name.substr(0, name.find(',')),
                    "</span> ");
  }
  absl::StrAppend(&svg, "Above: computations; below: all else.");
  if (ranks < report.summary.ranks.size()) {
    absl::StrAppend(&svg, " The first ", ranks, " of ",
                    report.summary.ranks.size(), " ranks.");
  }
  if (slices >= kMaxSlices) {
    absl::StrAppend(&svg, " Cut after ", kMaxSlices, " slices.");
  }
  return svg + "</p>\n";
}

std::string RankTable(const ReplayReport& report) {
  std::vector<int> parts;  // Those that any rank has.
  for (int part = 0; part < kNumReplayParts; ++part) {
    for (const RankSummary& rank : report.summary.ranks) {
      if (rank.parts[part] <= 0) continue;
      parts.push_back(part);
      break;
    }
  }
  std::string html =
      "<div class=\"scroll\"><table><tr><th>rank</th><th>end ms</th>";
  for (const int part : parts) {
    absl::StrAppend(&html, "<th>",
                    Escaped(NameOf(static_cast<ReplayPart>(part))), "</th>");
  }
  html += "</tr>\n";
  const size_t ranks = std::min(kShownRanks, report.summary.ranks.size());
  for (size_t r = 0; r < ranks; ++r) {
    const RankSummary& rank = report.summary.ranks[r];
    absl::StrAppendFormat(&html, "<tr><td>%d</td><td>%.4g</td>", r,
                          ToSeconds(rank.end) * 1e3);
    for (const int part : parts) {
      absl::StrAppendFormat(&html, "<td>%.4g</td>",
                            ToSeconds(rank.parts[part]) * 1e3);
    }
    html += "</tr>\n";
  }
  return html + "</table></div>\n";
}

}  // namespace

std::string ChromeTrace(const ReplayReport& report) {
  std::string text =
      "{\"displayTimeUnit\":\"ms\",\"traceEvents\":[\n"
      "{\"ph\":\"M\",\"pid\":0,\"name\":\"process_labels\","
      "\"args\":{\"labels\":\"strata simulate\"}}";
  for (size_t rank = 0; rank < report.summary.ranks.size(); ++rank) {
    AppendRank(report, static_cast<int>(rank), text);
  }
  return text + "\n]}\n";
}

std::string HtmlReport(const ReplayReport& report) {
  const ReplaySummary& summary = report.summary;
  const std::string title =
      absl::StrCat(report.traces, " on ", report.cluster_name);
  std::string html = absl::StrCat(
      "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\n"
      "<meta name=\"viewport\" content=\"width=device-width\">\n<title>",
      Escaped(title), "</title>\n", kPageStyle, "</head><body>\n<h1>",
      Escaped(title), "</h1>\n<p class=\"sub\">", summary.ranks.size(),
      " ranks, ", report.result->times.size(), " nodes</p>\n<dl>\n");
  html += Figure("time", absl::StrFormat("%.4g", report.Seconds() * 1e3),
                 absl::StrCat("ms, to rank ", summary.last_rank));
  html += Figure(
      "computing", absl::StrFormat("%.1f %%", 100 * summary.utilisation),
      absl::StrFormat("±%.1f over ranks", 100 * summary.utilisation_spread));
  html +=
      Figure("exposed", absl::StrFormat("%.1f %%", 100 * summary.exposed_share),
             "communicating or waiting");
  html += Figure("cost", absl::StrFormat("$%.4g", report.Dollars()),
                 absl::StrFormat("and %.4g kWh", report.Kwh()));
  html += "</dl>\n<h2>Where the time goes, mean over ranks</h2>\n";
  std::vector<PageBar> bars;
  for (int part = 0; part < kNumReplayParts; ++part) {
    double mean = 0;
    for (const RankSummary& rank : summary.ranks) {
      mean += ToSeconds(rank.parts[part]) * 1e3 /
              static_cast<double>(summary.ranks.size());
    }
    if (mean <= 0) continue;
    bars.push_back({std::string(NameOf(static_cast<ReplayPart>(part))), mean,
                    static_cast<size_t>(part)});
  }
  html += Bars(bars, "ms", report.Seconds() * 1e3, "where the time goes");
  absl::StrAppend(&html, "<p>Critical path: ", Escaped(summary.path_in_words),
                  ".</p>\n<h2>Ranks over time</h2>\n", Timeline(report),
                  "<h2>Ranks, milliseconds</h2>\n", RankTable(report));
  if (!report.result->notes.empty()) {
    html += "<h2>Notes</h2>\n<ul>\n";
    for (const std::string& note : report.result->notes) {
      absl::StrAppend(&html, "<li>", Escaped(note), "</li>\n");
    }
    html += "</ul>\n";
  }
  return html + "</body></html>\n";
}

}  // namespace strata::sim
