#include "tools/strata/simulate_astra.h"

#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "core/base/files.h"
#include "core/base/status_macros.h"
#include "nlohmann/json.hpp"
#include "sim/astra/network_config.h"
#include "sim/astra/simulator.h"
#include "sim/astra/system_config.h"
#include "sim/chakra/workload.h"
#include "tools/strata/command.h"
#include "tools/strata/config_flags.h"
#include "tools/strata/option_parser.h"
#include "tools/strata/output.h"

namespace strata {
namespace {

struct AstraFlags {
  std::string prefix;
  std::string network;
  std::string system;
  std::string groups;
  std::string memory;
  astra::SimulationOptions options;
  bool json = false;
};

nlohmann::ordered_json ToJson(const astra::SimulationResult& result,
                              const AstraFlags& flags) {
  nlohmann::ordered_json json;
  json["congestion_aware"] = flags.options.congestion_aware;
  json["events"] = result.num_events;
  json["ranks"] = nlohmann::ordered_json::array();
  for (size_t rank = 0; rank < result.ranks.size(); ++rank) {
    json["ranks"].push_back(
        {{"rank", rank},
         {"cycles", result.ranks[rank].finish_ns},
         {"exposed_communication_cycles", result.ranks[rank].exposed_ns}});
  }
  return json;
}

absl::StatusOr<int> RunSimulateAstra(const AstraFlags& flags) {
  ASSIGN_OR_RETURN(const std::string network_text, ReadFile(flags.network));
  ASSIGN_OR_RETURN(const astra::NetworkConfig network,
                   astra::ParseNetworkConfig(network_text, flags.network));
  ASSIGN_OR_RETURN(const std::string system_text, ReadFile(flags.system));
  ASSIGN_OR_RETURN(const astra::SystemConfig system,
                   astra::ParseSystemConfig(system_text, flags.system));
  astra::RemoteMemoryConfig memory;
  if (!flags.memory.empty()) {
    ASSIGN_OR_RETURN(const std::string memory_text, ReadFile(flags.memory));
    ASSIGN_OR_RETURN(memory,
                     astra::ParseRemoteMemoryConfig(memory_text, flags.memory));
  }
  ASSIGN_OR_RETURN(chakra::Workload workload,
                   chakra::LoadWorkload(flags.prefix, network.num_ranks()));
  if (!flags.groups.empty()) {
    ASSIGN_OR_RETURN(const std::string groups_text, ReadFile(flags.groups));
    ASSIGN_OR_RETURN(workload.groups,
                     chakra::ParseProcessGroups(groups_text, flags.groups,
                                                network.num_ranks()));
  }
  for (const chakra::RankTrace& rank : workload.ranks) {
    for (const std::string& note : rank.notes) PrintNote(note);
  }
  ASSIGN_OR_RETURN(
      const astra::SimulationResult result,
      astra::Simulate(workload, network, system, memory, flags.options));
  if (flags.json) {
    PrintJson(ToJson(result, flags));
    return 0;
  }
  std::string text;
  for (size_t rank = 0; rank < result.ranks.size(); ++rank) {
    absl::StrAppend(&text, "sys[", rank, "] finished, ",
                    result.ranks[rank].finish_ns,
                    " cycles, exposed communication ",
                    result.ranks[rank].exposed_ns, " cycles.\n");
  }
  Print(text);
  return 0;
}

}  // namespace

Command AddSimulateAstra(OptionParser& simulate) {
  OptionParser* astra = simulate.AddSubcommand(
      "astra",
      "Replay Chakra traces with ASTRA-sim's own configuration files, to the "
      "cycle of its analytical mode (docs/chakra.md)");
  auto flags = std::make_shared<AstraFlags>();
  astra
      ->AddOption("prefix", flags->prefix,
                  "Traces: PREFIX.<rank>.et for each rank of the network")
      ->TypeName("PREFIX")
      ->Required();
  astra
      ->AddOption("--network", flags->network,
                  "ASTRA-sim's analytical network file")
      ->TypeName("YML")
      ->Required();
  astra->AddOption("--system", flags->system, "ASTRA-sim's system file")
      ->TypeName("JSON")
      ->Required();
  astra
      ->AddOption("--groups", flags->groups,
                  "Communicator groups, {\"1\": [0, 1]}; 0 is all ranks")
      ->TypeName("JSON");
  astra
      ->AddOption("--remote-memory", flags->memory,
                  "ASTRA-sim's remote memory file; none without it")
      ->TypeName("JSON");
  astra->AddFlag("--aware", flags->options.congestion_aware,
                 "Messages wait for each other on links; one dimension only");
  astra->AddOption("--num-queues-per-dim", flags->options.queues_per_dimension,
                   "Queues of chunks for each dimension");
  astra
      ->AddOption("--injection-scale", flags->options.injection_scale,
                  "Factor of the system file's endpoint-delay")
      ->Check(BetweenNumbers(0.0, 1e6));
  AddJson(*astra, flags->json);
  return {astra, [flags] { return RunSimulateAstra(*flags); }};
}

}  // namespace strata
