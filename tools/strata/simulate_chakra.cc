#include "tools/strata/simulate_chakra.h"

#include <filesystem>
#include <map>
#include <optional>
#include <set>
#include <string>
#include <system_error>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "absl/strings/strip.h"
#include "core/base/files.h"
#include "core/base/status_macros.h"
#include "sim/chakra/trace_writer.h"
#include "sim/chakra/workload.h"
#include "sim/cluster/cluster.h"
#include "sim/cluster/load_cluster.h"
#include "sim/replay/machine_times.h"
#include "sim/replay/replay.h"
#include "sim/replay/replay_summary.h"
#include "sim/report/replay_report.h"
#include "tools/strata/output.h"

namespace strata {
namespace {

constexpr int kMaxTraceRanks = 1 << 16;

// "moe.3.et" as "moe" and 3.
bool ParseTraceName(absl::string_view name, std::string& prefix, int& rank) {
  if (!absl::ConsumeSuffix(&name, ".et")) return false;
  const size_t dot = name.rfind('.');
  if (dot == absl::string_view::npos) return false;
  prefix = std::string(name.substr(0, dot));
  return absl::SimpleAtoi(name.substr(dot + 1), &rank) && rank >= 0 &&
         rank < kMaxTraceRanks;
}

// Ranks by prefix, of the files of a folder.
absl::StatusOr<std::map<std::string, std::set<int>>> ListTraces(
    const std::filesystem::path& folder) {
  std::map<std::string, std::set<int>> found;
  std::error_code error;
  for (std::filesystem::directory_iterator it(folder, error), end;
       !error && it != end; it.increment(error)) {
    std::string prefix;
    int rank = 0;
    if (ParseTraceName(it->path().filename().string(), prefix, rank)) {
      found[prefix].insert(rank);
    }
  }
  if (error) {
    return absl::NotFoundError(
        absl::StrCat(folder.string(), ": ", error.message()));
  }
  return found;
}

absl::StatusOr<sim::Cluster> LoadSlowed(
    const ChakraFlags& flags, const std::optional<sim::MachineTimes>& machine,
    int num_ranks) {
  ASSIGN_OR_RETURN(sim::Cluster cluster,
                   machine ? sim::MachineCluster(*machine, num_ranks)
                           : sim::LoadCluster(flags.cluster));
  if (flags.slow.empty()) return cluster;
  sim::ClusterConfig config = cluster.config();
  for (const auto& [rank, factor] : flags.slow) {
    sim::RankSlowdown* const slowdown = config.add_slowdown();
    slowdown->set_rank(rank);
    slowdown->set_factor(factor);
  }
  return sim::Cluster::Create(config);
}

absl::StatusOr<std::optional<sim::MachineTimes>> LoadMachine(
    const std::string& path) {
  if (path.empty()) return std::nullopt;
  ASSIGN_OR_RETURN(const std::string text, ReadFile(path));
  ASSIGN_OR_RETURN(sim::MachineTimes times, sim::ParseMachineTimes(text, path));
  return times;
}

}  // namespace

absl::StatusOr<std::pair<std::string, int>> FindTraces(
    const std::string& traces) {
  const std::filesystem::path path(traces);
  const bool is_folder = std::filesystem::is_directory(path);
  const std::filesystem::path folder = is_folder ? path
                                       : path.has_parent_path()
                                           ? path.parent_path()
                                           : std::filesystem::path(".");
  ASSIGN_OR_RETURN(const auto found, ListTraces(folder));
  std::string name = path.filename().string();
  if (is_folder) {
    std::vector<std::string> names;
    for (const auto& [prefix, ranks] : found) names.push_back(prefix);
    if (names.empty()) {
      return absl::NotFoundError(absl::StrCat(
          traces, " has no traces; want files such as moe.0.et, one a rank"));
    }
    if (names.size() > 1) {
      return absl::InvalidArgumentError(absl::StrCat(
          traces, " has the traces of ", names.size(),
          " workloads: ", absl::StrJoin(names, ", "),
          "; want one, such as --chakra ", (folder / names[0]).string()));
    }
    name = names[0];
  }
  const std::string prefix =
      is_folder || path.has_parent_path() ? (folder / name).string() : name;
  const auto of_prefix = found.find(name);
  if (of_prefix == found.end()) {
    return absl::NotFoundError(
        absl::StrCat("there is no ", chakra::TracePath(prefix, 0),
                     "; want a folder of traces, or their prefix"));
  }
  const int num_ranks = *of_prefix->second.rbegin() + 1;
  for (int rank = 0; rank < num_ranks; ++rank) {
    if (of_prefix->second.count(rank) > 0) continue;
    return absl::InvalidArgumentError(absl::StrCat(
        "there is no ", chakra::TracePath(prefix, rank), ", but one of rank ",
        num_ranks - 1, "; want a trace for each rank"));
  }
  return std::make_pair(prefix, num_ranks);
}

absl::StatusOr<chakra::Workload> LoadTraces(const std::string& traces) {
  ASSIGN_OR_RETURN(const auto found, FindTraces(traces));
  return chakra::LoadWorkload(found.first, found.second);
}

absl::StatusOr<int> RunSimulateChakra(const ChakraFlags& flags) {
  ASSIGN_OR_RETURN(const auto traces, FindTraces(flags.traces));
  const auto& [prefix, num_ranks] = traces;
  ASSIGN_OR_RETURN(const std::optional<sim::MachineTimes> machine,
                   LoadMachine(flags.machine));
  ASSIGN_OR_RETURN(const sim::Cluster cluster,
                   LoadSlowed(flags, machine, num_ranks));
  if (num_ranks > cluster.num_ranks()) {
    return absl::InvalidArgumentError(absl::StrCat(
        prefix, " has ", num_ranks, " ranks, cluster ", flags.cluster, " ",
        cluster.num_ranks(), " GPUs; want as many, such as --cluster ",
        cluster.Node(0).name(), "x",
        (num_ranks + cluster.NumGpus(0) - 1) / cluster.NumGpus(0) *
            cluster.NumGpus(0)));
  }
  ASSIGN_OR_RETURN(chakra::Workload workload,
                   chakra::LoadWorkload(prefix, num_ranks));
  if (!flags.groups.empty()) {
    ASSIGN_OR_RETURN(const std::string text, ReadFile(flags.groups));
    ASSIGN_OR_RETURN(workload.groups,
                     chakra::ParseProcessGroups(text, flags.groups, num_ranks));
  }
  double unknown = 0;
  if (machine) unknown = sim::SetOperatorTimes(*machine, workload);
  sim::ReplayOptions options;
  options.roofline = flags.roofline;
  ASSIGN_OR_RETURN(sim::ReplayResult result,
                   sim::ReplayTraces(workload, cluster, options));
  for (const chakra::RankTrace& rank : workload.ranks) {
    result.notes.insert(result.notes.end(), rank.notes.begin(),
                        rank.notes.end());
  }
  if (unknown > 0) {
    result.notes.push_back(absl::StrFormat(
        "operators that %s lacks keep the time they had, %.1f %% of all",
        flags.machine, 100 * unknown));
  }
  sim::ReplayReport report;
  report.traces = prefix;
  report.cluster_name = machine ? flags.machine : flags.cluster;
  report.cluster = &cluster;
  report.result = &result;
  report.summary = sim::Summarise(result);
  if (!flags.trace.empty()) {
    RETURN_IF_ERROR(WriteFileAtomically(flags.trace, sim::ChromeTrace(report)));
  }
  if (!flags.html.empty()) {
    RETURN_IF_ERROR(WriteFileAtomically(flags.html, sim::HtmlReport(report)));
  }
  if (flags.json) {
    PrintJson(sim::ToJson(report));
  } else {
    Print(Printable(sim::Summary(report)));
  }
  return 0;
}

}  // namespace strata
