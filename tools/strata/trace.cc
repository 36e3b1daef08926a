// strata trace

#include <cstdint>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "core/base/sha256.h"
#include "core/base/status_macros.h"
#include "core/checkpoint/model_files.h"
#include "core/model/config.h"
#include "core/trace/routing_reader.h"
#include "core/trace/routing_summary.h"
#include "core/trace/routing_trace.pb.h"
#include "nlohmann/json.hpp"
#include "tools/strata/command.h"
#include "tools/strata/config_flags.h"
#include "tools/strata/option_parser.h"
#include "tools/strata/output.h"
#include "training/run/model_folder.h"

namespace strata {
namespace {

constexpr int kDamagedExitCode = 1;

struct TraceFlags {
  std::string file;
  std::string model;
  bool json = false;
};

// Whether the trace is of the model in `folder`.
absl::Status CheckModel(const RoutingTraceHeader& header,
                        const std::string& file, const std::string& path) {
  ASSIGN_OR_RETURN(const std::string folder, FindModel(path));
  ASSIGN_OR_RETURN(const ModelConfig config, LoadModelConfig(folder));
  const std::string model_hash = Sha256Hex(ToJson(config));
  if (model_hash != header.model_hash()) {
    return absl::InvalidArgumentError(absl::StrCat(
        file, " was recorded of another model (", header.model_name(),
        ", config hash ", header.model_hash(), ") than ", folder, " holds (",
        config.name(), ", ", model_hash, ")"));
  }
  // Training changes the weights from step to step: it records none.
  if (header.weights_hash().empty()) return absl::OkStatus();
  ASSIGN_OR_RETURN(const std::string weights_hash, HashWeights(folder));
  if (weights_hash != header.weights_hash()) {
    return absl::InvalidArgumentError(absl::StrCat(
        file, " was recorded with other weights (hash ", header.weights_hash(),
        ") than ", folder, " holds (", weights_hash, ")"));
  }
  return absl::OkStatus();
}

std::string Percent(double share) {
  return absl::StrFormat("%.1f %%", 100 * share);
}

std::string Describe(const RoutingTraceHeader& header,
                     const RoutingSummary& summary) {
  const nlohmann::json json = ToJson(header);
  std::string text = absl::StrCat(
      "model      ", header.model_name(), ", ", summary.mean.num_experts,
      " experts behind ", header.gates_size(), " gates, config ",
      header.model_hash(), "\nrecorded   by strata ",
      json["recorded_by"].get<std::string>(), " ", header.version(),
      " (commit ", header.commit(), "), ", header.date(), ", seed ",
      header.seed(), "\ndata       ", header.data_hash());
  if (!header.domains().empty()) {
    absl::StrAppend(&text, ": ", absl::StrJoin(header.domains(), ", "));
  }
  absl::StrAppend(&text, "\nrecords    ", FormatInteger(summary.num_records));
  if (summary.num_records > 0) {
    absl::StrAppend(&text, ", steps ", summary.first_step, " to ",
                    summary.last_step, ", ", FormatInteger(summary.tokens),
                    " tokens");
  }
  absl::StrAppend(&text, ", ", header.num_ranks(), " rank",
                  header.num_ranks() == 1 ? "" : "s", ", ",
                  header.has_tokens() ? "choices of each token" : "counts",
                  "\n");
  return text;
}

std::vector<std::string> GateRow(const std::string& name,
                                 const GateSummary& gate) {
  return {name,
          absl::StrCat(gate.num_experts),
          Percent(gate.active_share),
          Percent(gate.exit_rate),
          absl::StrFormat("%.3f", gate.whole.gini),
          absl::StrFormat("%.3f", gate.whole.max_over_mean),
          absl::StrFormat("%.3f", gate.whole.utilisation),
          Percent(gate.whole.starved_share),
          absl::StrFormat("%.3f", gate.per_record.gini),
          absl::StrFormat("%.3f", gate.per_record.max_over_mean),
          absl::StrFormat("%.3f", gate.drift.mean),
          absl::StrFormat("%.3f", gate.drift.first_to_last)};
}

// Names of columns: "whole" is the load of all records together, "/rec" the
// mean over records.
std::string GateTable(const RoutingSummary& summary) {
  std::vector<std::vector<std::string>> rows = {
      {"layer.tier", "experts", "active", "exits", "Gini", "max/mean", "util",
       "starved", "Gini/rec", "max/mean/rec", "drift", "first-last"}};
  for (const GateSummary& gate : summary.gates) {
    rows.push_back(GateRow(absl::StrCat(gate.layer, ".", gate.tier), gate));
  }
  rows.push_back(GateRow("all gates", summary.mean));
  return FormatTable(rows);
}

std::string TierLine(const RoutingSummary& summary) {
  if (summary.tier_tokens.size() < 2) return "";
  std::vector<std::string> shares;
  for (const double share : summary.tier_tokens) {
    shares.push_back(Percent(share));
  }
  return absl::StrCat(
      "\ntokens that reach each tier: ", absl::StrJoin(shares, ", "), "\n");
}

absl::StatusOr<int> RunTrace(const TraceFlags& flags) {
  ASSIGN_OR_RETURN(RoutingReader reader, RoutingReader::Open(flags.file));
  if (!flags.model.empty()) {
    RETURN_IF_ERROR(CheckModel(reader.header(), flags.file, flags.model));
  }
  const RoutingSummary summary = Summarize(reader);
  if (flags.json) {
    PrintJson(nlohmann::json{{"file", flags.file},
                             {"header", ToJson(reader.header())},
                             {"summary", ToJson(summary)}});
  } else {
    Print(Printable(absl::StrCat(Describe(reader.header(), summary), "\n",
                                 GateTable(summary), TierLine(summary))));
  }
  if (summary.damage.ok()) return 0;
  PrintError(summary.damage.message());
  return kDamagedExitCode;
}

}  // namespace

Command AddTrace(OptionParser& app) {
  OptionParser* trace = app.AddSubcommand(
      "trace",
      "Sum up a routing trace: balance, early exits and drift of each gate "
      "(docs/routing_trace.md explains the figures)");
  auto flags = std::make_shared<TraceFlags>();
  trace
      ->AddOption("file", flags->file,
                  "What --record-routing wrote. Of a damaged file, all that "
                  "stands before the damage; the exit status is then 1")
      ->TypeName("FILE")
      ->Required();
  trace
      ->AddOption("--model", flags->model,
                  "Fail unless the trace is of this checkpoint's or run's "
                  "model; of an evaluation, also with its weights")
      ->TypeName("DIR");
  AddJson(*trace, flags->json);
  return {trace, [flags] { return RunTrace(*flags); }};
}

}  // namespace strata
