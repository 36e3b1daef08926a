#include "sim/replay/replay_summary.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/string_view.h"
#include "sim/chakra/chakra.pb.h"
#include "sim/chakra/workload.h"
#include "sim/engine/time.h"
#include "sim/replay/replay.h"
#include "sim/replay/trace_plan.h"

namespace strata::sim {
namespace {

constexpr size_t kShownPathParts = 4;
constexpr size_t kShownPathNodes = 3;

// A part begins or ends.
struct Boundary {
  Picoseconds time;
  int part;
  int change;  // 1 or -1.
};

void AddInterval(Picoseconds begin, Picoseconds end, ReplayPart part,
                 std::vector<Boundary>& boundaries) {
  if (end <= begin) return;
  boundaries.push_back({begin, static_cast<int>(part), 1});
  boundaries.push_back({end, static_cast<int>(part), -1});
}

RankSummary SummariseRank(const ReplayResult& result, int rank) {
  const TracePlan& plan = result.plan;
  RankSummary summary;
  std::vector<Boundary> boundaries;
  for (NodeIndex node = plan.first_node[rank]; node < plan.first_node[rank + 1];
       ++node) {
    const NodeTime& time = result.times[node];
    summary.end = std::max(summary.end, time.end);
    switch (plan.role[node]) {
      case NodeRole::kNothing:
        break;
      case NodeRole::kHost:
      case NodeRole::kCompute:
      case NodeRole::kMemory:
        AddInterval(time.start, time.end, PartOf(plan, node), boundaries);
        break;
      case NodeRole::kCollective:
        AddInterval(time.joined, time.met, ReplayPart::kLateRanks, boundaries);
        AddInterval(time.met, time.end, PartOf(plan, node), boundaries);
        break;
      case NodeRole::kSend:
      case NodeRole::kReceive:
        AddInterval(time.joined, time.met, ReplayPart::kLateSend, boundaries);
        AddInterval(time.met, time.end, ReplayPart::kMessage, boundaries);
        break;
    }
  }
  std::sort(
      boundaries.begin(), boundaries.end(),
      [](const Boundary& a, const Boundary& b) { return a.time < b.time; });
  std::array<int64_t, kNumReplayParts> active = {};
  Picoseconds at = 0;
  const auto advance = [&](Picoseconds to) {
    int part = 0;
    while (part < static_cast<int>(ReplayPart::kIdle) && active[part] == 0) {
      ++part;
    }
    summary.parts[part] += to - at;
    at = to;
  };
  for (const Boundary& boundary : boundaries) {
    advance(boundary.time);
    active[boundary.part] += boundary.change;
  }
  advance(summary.end);
  summary.parts[static_cast<int>(ReplayPart::kDone)] =
      result.total - summary.end;
  return summary;
}

// From the last node back to the beginning.
std::vector<PathStep> FindPath(const ReplayResult& result) {
  std::vector<PathStep> path;
  NodeIndex at = -1;
  for (size_t i = 0; i < result.times.size(); ++i) {
    if (at < 0 || result.times[i].end > result.times[at].end) {
      at = static_cast<NodeIndex>(i);
    }
  }
  Picoseconds end = at < 0 ? 0 : result.times[at].end;
  // Causes end no later than what they cause, but at one time they may be many:
  // the bound is for what should not be.
  for (size_t i = 0; at >= 0 && i < 2 * result.times.size() + 1; ++i) {
    const NodeIndex cause = result.times[at].cause;
    // A collective's cause may be the node of another rank that joined last,
    // and ends with it: its own time is what that one has.
    const bool is_partner =
        cause >= 0 && result.plan.joint_of[at] >= 0 &&
        result.plan.joint_of[at] == result.plan.joint_of[cause];
    if (!is_partner) {
      Picoseconds begin = cause < 0 ? 0 : result.times[cause].end;
      begin = std::min(begin, end);
      path.push_back({at, end - begin});
      end = begin;
    }
    at = cause;
  }
  std::reverse(path.begin(), path.end());
  return path;
}

std::string PathInWords(const ReplayResult& result,
                        const std::vector<PathStep>& path) {
  if (path.empty() || result.total == 0) return "nothing takes time";
  std::array<Picoseconds, kNumReplayParts> parts = {};
  std::set<int> ranks;
  int changes = 0;
  int before = -1;
  for (const PathStep& step : path) {
    parts[static_cast<int>(PartOf(result.plan, step.node))] += step.time;
    const int rank = result.plan.RankOf(step.node);
    ranks.insert(rank);
    changes += before >= 0 && rank != before;
    before = rank;
  }
  std::vector<std::pair<Picoseconds, int>> order;
  for (int part = 0; part < kNumReplayParts; ++part) {
    if (parts[part] > 0) order.push_back({parts[part], part});
  }
  std::sort(order.rbegin(), order.rend());
  std::string text = absl::StrCat(path.size(), " nodes over ", ranks.size(),
                                  ranks.size() == 1 ? " rank" : " ranks", " (",
                                  changes, " changes), to rank ", before, ":");
  for (size_t i = 0; i < order.size() && i < kShownPathParts; ++i) {
    std::string name(NameOf(static_cast<ReplayPart>(order[i].second)));
    name = name.substr(0, name.find(','));
    absl::StrAppendFormat(&text, "%s %s %.1f %%", i == 0 ? "" : ",", name,
                          100.0 * static_cast<double>(order[i].first) /
                              static_cast<double>(result.total));
  }
  std::vector<PathStep> longest = path;
  std::stable_sort(
      longest.begin(), longest.end(),
      [](const PathStep& a, const PathStep& b) { return a.time > b.time; });
  absl::StrAppend(&text, "; longest: ");
  for (size_t i = 0; i < longest.size() && i < kShownPathNodes; ++i) {
    absl::StrAppendFormat(
        &text, "%s%s of rank %d (%.4g ms)", i == 0 ? "" : ", ",
        chakra::NodeName(result.plan.Node(longest[i].node)),
        result.plan.RankOf(longest[i].node), ToSeconds(longest[i].time) * 1e3);
  }
  return text;
}

}  // namespace

absl::string_view NameOf(ReplayPart part) {
  switch (part) {
    case ReplayPart::kCompute:
      return "compute";
    case ReplayPart::kAllReduce:
      return "all-reduce, exposed";
    case ReplayPart::kAllGather:
      return "all-gather, exposed";
    case ReplayPart::kReduceScatter:
      return "reduce-scatter, exposed";
    case ReplayPart::kAllToAll:
      return "all-to-all, exposed";
    case ReplayPart::kOtherCollective:
      return "other collectives, exposed";
    case ReplayPart::kMessage:
      return "send/recv, exposed";
    case ReplayPart::kLateRanks:
      return "waiting for late ranks";
    case ReplayPart::kLateSend:
      return "waiting for a send";
    case ReplayPart::kMemory:
      return "loads and stores";
    case ReplayPart::kHost:
      return "host";
    case ReplayPart::kIdle:
      return "idle";
    case ReplayPart::kDone:
      return "done, others are not";
  }
  return "?";
}

ReplayPart PartOf(const TracePlan& plan, NodeIndex node) {
  switch (plan.role[node]) {
    case NodeRole::kNothing:
      return ReplayPart::kIdle;
    case NodeRole::kHost:
      return ReplayPart::kHost;
    case NodeRole::kCompute:
      return ReplayPart::kCompute;
    case NodeRole::kMemory:
      return ReplayPart::kMemory;
    case NodeRole::kSend:
    case NodeRole::kReceive:
      return ReplayPart::kMessage;
    case NodeRole::kCollective:
      break;
  }
  switch (plan.joints[plan.joint_of[node]].type) {
    case ChakraProtoMsg::ALL_REDUCE:
      return ReplayPart::kAllReduce;
    case ChakraProtoMsg::ALL_GATHER:
      return ReplayPart::kAllGather;
    case ChakraProtoMsg::REDUCE_SCATTER:
    case ChakraProtoMsg::REDUCE_SCATTER_BLOCK:
      return ReplayPart::kReduceScatter;
    case ChakraProtoMsg::ALL_TO_ALL:
      return ReplayPart::kAllToAll;
    default:
      return ReplayPart::kOtherCollective;
  }
}

ReplaySummary Summarise(const ReplayResult& result) {
  ReplaySummary summary;
  const int num_ranks = static_cast<int>(result.plan.workload->ranks.size());
  double sum = 0;
  double squares = 0;
  for (int rank = 0; rank < num_ranks; ++rank) {
    summary.ranks.push_back(SummariseRank(result, rank));
    const RankSummary& of = summary.ranks.back();
    if (of.end > summary.ranks[summary.last_rank].end) {
      summary.last_rank = rank;
    }
    if (result.total == 0) continue;
    const double total = static_cast<double>(result.total);
    const double share = static_cast<double>(of.parts[0]) / total;
    sum += share / num_ranks;
    squares += share * share / num_ranks;
    for (int part = static_cast<int>(ReplayPart::kAllReduce);
         part <= static_cast<int>(ReplayPart::kLateSend); ++part) {
      summary.exposed_share +=
          static_cast<double>(of.parts[part]) / total / num_ranks;
    }
  }
  summary.utilisation = sum;
  summary.utilisation_spread = std::sqrt(std::max(0.0, squares - sum * sum));
  summary.path = FindPath(result);
  summary.path_in_words = PathInWords(result, summary.path);
  return summary;
}

}  // namespace strata::sim
