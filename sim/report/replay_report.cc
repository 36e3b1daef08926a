#include "sim/report/replay_report.h"

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
#include "sim/cluster/cluster.h"
#include "sim/engine/time.h"
#include "sim/replay/replay.h"
#include "sim/replay/replay_summary.h"

namespace strata::sim {
namespace {

constexpr int kBarColumns = 30;
constexpr size_t kShownPathNodes = 1000;

std::string Bar(double share) {
  const int filled = static_cast<int>(std::lround(share * kBarColumns));
  return std::string(std::clamp(filled, 0, kBarColumns), '#');
}

// Seconds, means over ranks.
std::array<double, kNumReplayParts> MeanParts(const ReplaySummary& summary) {
  std::array<double, kNumReplayParts> mean = {};
  for (const RankSummary& rank : summary.ranks) {
    for (int part = 0; part < kNumReplayParts; ++part) {
      mean[part] += ToSeconds(rank.parts[part]) /
                    static_cast<double>(summary.ranks.size());
    }
  }
  return mean;
}

std::string Duration(double seconds) {
  if (seconds >= 1) return absl::StrFormat("%.4g s", seconds);
  if (seconds >= 1e-3) return absl::StrFormat("%.4g ms", seconds * 1e3);
  return absl::StrFormat("%.4g us", seconds * 1e6);
}

}  // namespace

double ReplayReport::Seconds() const { return ToSeconds(result->total); }
double ReplayReport::Dollars() const {
  return Seconds() / 3600 * cluster->dollars_per_hour();
}
double ReplayReport::Kwh() const {
  return Seconds() / 3600 * cluster->watts() / 1000;
}

std::string Summary(const ReplayReport& report) {
  const ReplaySummary& summary = report.summary;
  const RankSummary& last = summary.ranks[summary.last_rank];
  std::string text = absl::StrFormat(
      "%s, ranks: %d, nodes: %d, on %s\n\n", report.traces,
      summary.ranks.size(), report.result->times.size(), report.cluster_name);
  absl::StrAppendFormat(&text, "time          %s; rank %d is the last to end\n",
                        Duration(report.Seconds()), summary.last_rank);
  absl::StrAppendFormat(
      &text, "utilisation   %.1f %% of the time computing, +-%.1f over ranks\n",
      100 * summary.utilisation, 100 * summary.utilisation_spread);
  absl::StrAppendFormat(&text,
                        "exposed       %.1f %% communicating or waiting while "
                        "nothing computes\n",
                        100 * summary.exposed_share);
  absl::StrAppendFormat(&text,
                        "cost          $%.4g, %.4g kWh of %d GPUs at full "
                        "load\n",
                        report.Dollars(), report.Kwh(),
                        report.cluster->num_ranks());
  absl::StrAppendFormat(&text, "\n%-28s %12s %7s  %12s\n",
                        "where the time goes", "mean", "",
                        absl::StrCat("rank ", summary.last_rank));
  const std::array<double, kNumReplayParts> mean = MeanParts(summary);
  for (int part = 0; part < kNumReplayParts; ++part) {
    const double of_last = ToSeconds(last.parts[part]);
    if (mean[part] <= 0 && of_last <= 0) continue;
    const double share = mean[part] / report.Seconds();
    absl::StrAppendFormat(&text, "  %-26s %12s %5.1f %%  %12s  %s\n",
                          NameOf(static_cast<ReplayPart>(part)),
                          Duration(mean[part]), 100 * share, Duration(of_last),
                          Bar(share));
  }
  absl::StrAppend(&text, "\ncritical path: ", summary.path_in_words, "\n");
  for (const std::string& note : report.result->notes) {
    absl::StrAppend(&text, "note: ", note, "\n");
  }
  return text;
}

nlohmann::ordered_json ToJson(const ReplayReport& report) {
  const ReplaySummary& summary = report.summary;
  nlohmann::ordered_json json;
  json["traces"] = report.traces;
  json["cluster"] = report.cluster_name;
  json["gpus"] = report.cluster->num_ranks();
  json["num_ranks"] = summary.ranks.size();
  json["num_nodes"] = report.result->times.size();
  json["events"] = report.result->num_events;
  json["slow"] = nlohmann::ordered_json::array();
  for (int rank = 0; rank < report.cluster->num_ranks(); ++rank) {
    if (report.cluster->Slowdown(rank) == 1) continue;
    json["slow"].push_back(
        {{"rank", rank}, {"factor", report.cluster->Slowdown(rank)}});
  }
  json["seconds"] = report.Seconds();
  json["last_rank"] = summary.last_rank;
  json["utilisation"] = summary.utilisation;
  json["utilisation_spread"] = summary.utilisation_spread;
  json["exposed_share"] = summary.exposed_share;
  json["dollars"] = report.Dollars();
  json["kwh"] = report.Kwh();
  json["parts"] = nlohmann::ordered_json::array();
  const std::array<double, kNumReplayParts> mean = MeanParts(summary);
  for (int part = 0; part < kNumReplayParts; ++part) {
    json["parts"].push_back(
        {{"name", std::string(NameOf(static_cast<ReplayPart>(part)))},
         {"seconds", mean[part]}});
  }
  json["ranks"] = nlohmann::ordered_json::array();
  for (size_t rank = 0; rank < summary.ranks.size(); ++rank) {
    nlohmann::ordered_json parts = nlohmann::ordered_json::object();
    for (int part = 0; part < kNumReplayParts; ++part) {
      parts[std::string(NameOf(static_cast<ReplayPart>(part)))] =
          ToSeconds(summary.ranks[rank].parts[part]);
    }
    json["ranks"].push_back(
        {{"rank", rank},
         {"file", report.result->plan.workload->ranks[rank].path},
         {"end_seconds", ToSeconds(summary.ranks[rank].end)},
         {"parts", std::move(parts)}});
  }
  json["critical_path"] = summary.path_in_words;
  json["critical_path_nodes"] = nlohmann::ordered_json::array();
  const size_t first = summary.path.size() > kShownPathNodes
                           ? summary.path.size() - kShownPathNodes
                           : 0;
  for (size_t i = first; i < summary.path.size(); ++i) {
    const PathStep& step = summary.path[i];
    const chakra::TraceNode& node = report.result->plan.Node(step.node);
    json["critical_path_nodes"].push_back(
        {{"rank", report.result->plan.RankOf(step.node)},
         {"id", node.id},
         {"name", node.name},
         {"seconds", ToSeconds(step.time)}});
  }
  json["warnings"] = report.result->notes;
  return json;
}

}  // namespace strata::sim
