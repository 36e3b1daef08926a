#include "tools/strata/simulate_model.h"

#include <algorithm>
#include <cstdint>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/ascii.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "core/base/files.h"
#include "core/base/status_macros.h"
#include "core/model/proto_json.h"
#include "nlohmann/json.hpp"
#include "sim/report/chrome_trace.h"
#include "sim/report/html_report.h"
#include "sim/report/step_report.h"
#include "sim/validation/validation.h"
#include "sim/workload/expert_loads.h"
#include "sim/workload/load_replay.h"
#include "sim/workload/serving_step.h"
#include "sim/workload/simulator.h"
#include "sim/workload/sweep.h"
#include "sim/workload/training_step.h"
#include "tools/strata/command.h"
#include "tools/strata/config_flags.h"
#include "tools/strata/option_parser.h"
#include "tools/strata/output.h"
#include "tools/strata/simulate_chakra.h"

namespace strata {
namespace {

constexpr int64_t kMaxWindows = 64;
constexpr uint64_t kLoadSeed = 1;

struct ModelFlags {
  std::string model;
  std::string chakra;
  std::string groups;
  std::string machine;
  bool roofline = false;
  std::string cluster = "h100";
  std::string layout;
  std::string schedule = "1f1b";
  std::string framework = "megatron-core";
  double efficiency = 0;
  std::string constants;
  std::string routing;
  std::string expert_loads;
  double power_law = 0;
  double gini = 0;
  int64_t redundant = 0;
  std::vector<std::string> slow;
  std::string serve;
  int64_t batch = 64;
  int64_t context = 4096;
  std::string trace;
  std::string html;
  std::vector<std::string> compare;
  bool sweep = false;
  bool validate = false;
  std::string rows;
  bool json = false;
};

// "3=1.2": rank 3 takes 1.2 times as long.
absl::StatusOr<std::pair<int, double>> ParseSlow(const std::string& text) {
  const std::vector<std::string> sides = absl::StrSplit(text, '=');
  std::pair<int, double> slow;
  if (sides.size() != 2 || !absl::SimpleAtoi(sides[0], &slow.first) ||
      !absl::SimpleAtod(sides[1], &slow.second)) {
    return absl::InvalidArgumentError(
        absl::StrCat("--slow ", text, "; want RANK=FACTOR, such as 3=1.2"));
  }
  return slow;
}

absl::StatusOr<int> RunCompare(const ModelFlags& flags) {
  std::vector<nlohmann::json> results;
  for (const std::string& path : flags.compare) {
    ASSIGN_OR_RETURN(const std::string text, ReadFile(path));
    absl::StatusOr<nlohmann::json> json = ParseJson(text);
    if (!json.ok()) {
      return absl::InvalidArgumentError(
          absl::StrCat(path, ": ", json.status().message()));
    }
    const absl::Status status = sim::CheckResult(*json);
    if (!status.ok()) {
      return absl::InvalidArgumentError(
          absl::StrCat(path, ": ", status.message()));
    }
    results.push_back(*std::move(json));
  }
  ASSIGN_OR_RETURN(const std::string text,
                   sim::Compare(results[0], results[1]));
  Print(Printable(text));
  return 0;
}

nlohmann::ordered_json ToJson(const sim::ValidationResult& result) {
  nlohmann::ordered_json json;
  json["rows"] = nlohmann::ordered_json::array();
  for (const sim::RowResult& r : result.rows) {
    nlohmann::ordered_json row = {
        {"source", r.row.source},       {"name", r.row.name},
        {"framework", r.row.framework}, {"verified", r.row.verified},
        {"measured", r.row.measured},   {"unit", r.row.unit}};
    if (r.status.ok()) {
      row["predicted"] = r.predicted;
      row["error"] = r.error;
      if (r.row.verified) row["error_left_out"] = r.error_left_out;
    } else {
      row["no_prediction"] = std::string(r.status.message());
    }
    json["rows"].push_back(std::move(row));
  }
  json["efficiency"] = result.efficiency;
  json["fitted"] = result.fitted;
  json["median_error"] = result.median_error;
  json["max_error"] = result.max_error;
  json["num_rows"] = result.num_rows;
  json["num_within_15"] = result.num_within_15;
  return json;
}

absl::StatusOr<sim::Constants> Constants(const ModelFlags& flags) {
  if (flags.constants.empty()) return sim::DefaultConstants();
  ASSIGN_OR_RETURN(const std::string text, ReadFile(flags.constants));
  return sim::ParseConstants(text);
}

absl::StatusOr<int> RunValidate(const ModelFlags& flags) {
  std::vector<sim::MeasuredRow> rows;
  if (flags.rows.empty()) {
    ASSIGN_OR_RETURN(rows, sim::PublishedRows());
  } else {
    ASSIGN_OR_RETURN(const std::string csv, ReadFile(flags.rows));
    absl::StatusOr<std::vector<sim::MeasuredRow>> parsed = sim::ParseRows(csv);
    if (!parsed.ok()) {
      return absl::InvalidArgumentError(
          absl::StrCat(flags.rows, ": ", parsed.status().message()));
    }
    rows = *std::move(parsed);
  }
  sim::Simulator simulator;
  ASSIGN_OR_RETURN(const sim::Constants constants, Constants(flags));
  ASSIGN_OR_RETURN(const sim::ValidationResult result,
                   sim::ValidateRows(rows, constants, simulator));
  if (flags.json) {
    PrintJson(ToJson(result));
  } else {
    Print(Printable(sim::FormatValidation(result)));
  }
  return 0;
}

// The loads that flags ask for; `windows` are those of a routing trace.
absl::StatusOr<sim::ExpertLoads> Loads(const ModelFlags& flags,
                                       const sim::ModelGraph& model,
                                       std::vector<sim::LoadWindow>& windows) {
  const int sources = !flags.routing.empty() + !flags.expert_loads.empty() +
                      (flags.power_law != 0) + (flags.gini != 0);
  if (sources > 1) {
    return absl::InvalidArgumentError(
        "--routing, --expert-loads, --power-law and --gini each say the "
        "experts' loads; want one of them");
  }
  if (sources > 0 && model.gates().empty()) {
    return absl::InvalidArgumentError(
        absl::StrCat("model ", model.config().name(), " has no experts"));
  }
  if (!flags.expert_loads.empty()) {
    return sim::ReadLoadsCsv(flags.expert_loads, model.gates());
  }
  if (!flags.routing.empty()) {
    ASSIGN_OR_RETURN(windows, sim::ReadWindows(flags.routing, kMaxWindows));
    return sim::LoadsOfWindow(windows.back(), model.gates(), flags.routing,
                              kLoadSeed);
  }
  if (flags.gini != 0) {
    return sim::LoadsOfGini(model.gates(), flags.gini, kLoadSeed);
  }
  return sim::PowerLawLoads(model.gates(), flags.power_law, kLoadSeed);
}

std::string DescribeBalance(const std::vector<sim::BalancePoint>& points) {
  std::vector<std::vector<std::string>> rows = {
      {"steps", "utilisation", "spread", "step s", "placed anew", "spread",
       "step s", "moved"}};
  for (const sim::BalancePoint& p : points) {
    rows.push_back({absl::StrCat(p.first_step, "-", p.last_step),
                    absl::StrFormat("%.1f %%", 100 * p.utilisation_static),
                    absl::StrFormat("%.1f %%", 100 * p.spread_static),
                    absl::StrFormat("%.4g", p.seconds_static),
                    absl::StrFormat("%.1f %%", 100 * p.utilisation_balanced),
                    absl::StrFormat("%.1f %%", 100 * p.spread_balanced),
                    absl::StrFormat("%.4g", p.seconds_balanced),
                    absl::StrCat(p.slots_changed)});
  }
  return absl::StrCat(
      "\nranks over the trace's windows, experts as they are "
      "and placed anew from the window before\n",
      FormatTable(rows));
}

nlohmann::ordered_json ToJson(const std::vector<sim::BalancePoint>& points) {
  nlohmann::ordered_json json = nlohmann::ordered_json::array();
  for (const sim::BalancePoint& p : points) {
    json.push_back({{"first_step", p.first_step},
                    {"last_step", p.last_step},
                    {"utilisation_static", p.utilisation_static},
                    {"utilisation_balanced", p.utilisation_balanced},
                    {"spread_static", p.spread_static},
                    {"spread_balanced", p.spread_balanced},
                    {"seconds_static", p.seconds_static},
                    {"seconds_balanced", p.seconds_balanced},
                    {"slots_changed", p.slots_changed}});
  }
  return json;
}

absl::StatusOr<int> RunServing(const ModelFlags& flags,
                               const sim::StepInputs& inputs) {
  sim::ServingRequest request;
  ASSIGN_OR_RETURN(request.phase, sim::ParseServingPhase(flags.serve));
  request.batch = flags.batch;
  request.context = flags.context;
  ASSIGN_OR_RETURN(const sim::ServingResult result,
                   sim::SimulateServing(inputs, request));
  if (flags.json) {
    PrintJson(sim::ToJson(result));
  } else {
    Print(Printable(sim::Summary(result)));
  }
  return 0;
}

// What else may be said beside each of the things that can be asked for.
struct Mode {
  const char* flag;
  std::vector<std::string> beside;
};

const std::vector<Mode>& Modes() {
  static const std::vector<Mode>& modes = *new std::vector<Mode>{
      {"--validate", {"--rows", "--constants", "--json"}},
      {"--compare", {}},
      {"--chakra",
       {"--cluster", "--machine", "--groups", "--roofline", "--slow", "--trace",
        "--html", "--json"}},
      {"--sweep",
       {"--model", "--cluster", "--layout", "--framework", "--efficiency",
        "--constants", "--routing", "--expert-loads", "--power-law", "--gini",
        "--slow"}},
      {"--serve",
       {"--model", "--cluster", "--layout", "--framework", "--efficiency",
        "--constants", "--routing", "--expert-loads", "--power-law", "--gini",
        "--slow", "--batch", "--context", "--json"}},
      {"--model",
       {"--cluster", "--layout", "--schedule", "--framework", "--efficiency",
        "--constants", "--routing", "--expert-loads", "--power-law", "--gini",
        "--redundant", "--slow", "--trace", "--html", "--json"}}};
  return modes;
}

// A flag that would be ignored is an error, so that nobody believes in it.
absl::Status CheckFlags(const OptionParser& simulate) {
  const Mode* asked = nullptr;
  for (const Mode& mode : Modes()) {
    if (asked == nullptr && simulate.FindOption(mode.flag)->is_given())
      asked = &mode;
  }
  if (asked == nullptr) {
    return absl::InvalidArgumentError(
        "nothing to simulate; want --model, --chakra, --validate, --compare, "
        "or a subcommand");
  }
  for (const Option* option : simulate.options()) {
    const std::string name = option->name();
    if (!option->is_given() || name == asked->flag) continue;
    if (std::find(asked->beside.begin(), asked->beside.end(), name) ==
        asked->beside.end()) {
      return absl::InvalidArgumentError(absl::StrCat(
          name, " means nothing beside ", asked->flag, "; ",
          asked->beside.empty()
              ? "want nothing else"
              : absl::StrCat("want ", absl::StrJoin(asked->beside, ", "))));
    }
  }
  return absl::OkStatus();
}

absl::StatusOr<int> RunChakra(const ModelFlags& flags) {
  ChakraFlags chakra;
  chakra.traces = flags.chakra;
  chakra.cluster = flags.cluster;
  chakra.groups = flags.groups;
  chakra.machine = flags.machine;
  chakra.roofline = flags.roofline;
  for (const std::string& slow : flags.slow) {
    ASSIGN_OR_RETURN(const auto parsed, ParseSlow(slow));
    chakra.slow.push_back(parsed);
  }
  chakra.trace = flags.trace;
  chakra.html = flags.html;
  chakra.json = flags.json;
  return RunSimulateChakra(chakra);
}

absl::StatusOr<int> RunModel(const ModelFlags& flags, const OptionParser& app) {
  RETURN_IF_ERROR(CheckFlags(app));
  if (flags.validate) return RunValidate(flags);
  if (!flags.compare.empty()) return RunCompare(flags);
  if (!flags.chakra.empty()) return RunChakra(flags);
  if (flags.model.empty()) {
    return absl::InvalidArgumentError(absl::StrCat(
        flags.sweep ? "--sweep" : "--serve", " of what? want --model"));
  }
  if (flags.redundant > 0 && flags.routing.empty()) {
    return absl::InvalidArgumentError(
        "--redundant is for the balancer, which --routing replays; want both");
  }
  sim::Simulator simulator;
  sim::StepReport report;
  sim::Scenario& scenario = report.scenario;
  scenario.model = flags.model;
  scenario.cluster = flags.cluster;
  scenario.layout = flags.layout;
  scenario.schedule = flags.schedule;
  ASSIGN_OR_RETURN(const sim::Constants constants, Constants(flags));
  ASSIGN_OR_RETURN(scenario.software,
                   sim::SoftwareOf(constants, flags.framework));
  if (flags.efficiency > 0) scenario.software.efficiency = flags.efficiency;
  for (const std::string& slow : flags.slow) {
    ASSIGN_OR_RETURN(const auto parsed, ParseSlow(slow));
    scenario.slow.push_back(parsed);
  }
  std::vector<sim::LoadWindow> windows;
  ASSIGN_OR_RETURN(const sim::ModelGraph* model, simulator.Model(flags.model));
  ASSIGN_OR_RETURN(scenario.loads, Loads(flags, *model, windows));

  if (flags.sweep) {
    ASSIGN_OR_RETURN(const sim::Sweep sweep,
                     sim::SweepLayouts(scenario, simulator));
    Print(sim::ToCsv(sweep));
    PrintNote(absl::StrCat(sweep.tried, " layouts tried; ", sweep.not_dividing,
                           " do not divide, ", sweep.out_of_memory,
                           " do not fit in memory"));
    return 0;
  }
  ASSIGN_OR_RETURN(report.inputs, simulator.Inputs(scenario));
  if (!flags.serve.empty()) return RunServing(flags, report.inputs);
  ASSIGN_OR_RETURN(report.result, simulator.Run(scenario));
  std::vector<sim::BalancePoint> balance;
  if (!windows.empty()) {
    sim::ReplayOptions options;
    options.redundant_per_rank = flags.redundant;
    ASSIGN_OR_RETURN(balance, sim::ReplayLoads(report.inputs, windows,
                                               flags.routing, options));
  }
  if (!flags.trace.empty()) {
    RETURN_IF_ERROR(
        WriteFileAtomically(flags.trace, sim::ChromeTrace(report.result)));
  }
  if (!flags.html.empty()) {
    RETURN_IF_ERROR(
        WriteFileAtomically(flags.html, sim::HtmlReport(report, balance)));
  }
  if (flags.json) {
    nlohmann::ordered_json json = sim::ToJson(report);
    if (!balance.empty()) json["balance"] = ToJson(balance);
    PrintJson(json);
    return 0;
  }
  std::string text = sim::Summary(report);
  if (!balance.empty()) text += DescribeBalance(balance);
  Print(Printable(text));
  return 0;
}

}  // namespace

Command AddSimulateModel(OptionParser& simulate) {
  auto flags = std::make_shared<ModelFlags>();
  simulate
      .AddOption("--model", flags->model,
                 "A preset, a config.json, or dimensions such as \"layers=96 "
                 "hidden=12288 heads=96 ffn=49152 mlp=gelu vocab=51200\"")
      ->TypeName("MODEL");
  simulate
      .AddOption("--chakra", flags->chakra,
                 "Replay Chakra traces instead: PREFIX.<rank>.et, or the "
                 "folder of one workload's")
      ->TypeName("DIR|PREFIX");
  simulate
      .AddOption("--groups", flags->groups,
                 "With --chakra: process groups, {\"1\": [0, 1]}, beside those "
                 "of the traces; 0 is all ranks")
      ->TypeName("JSON");
  simulate
      .AddOption("--machine", flags->machine,
                 "With --chakra, of strata train --trace: on the machine that "
                 "strata calibrate --traces has measured, computations by its "
                 "fit instead of as recorded")
      ->TypeName("FILE");
  simulate.AddFlag("--roofline", flags->roofline,
                   "With --chakra: computations with num_ops by a roofline "
                   "of the cluster's GPU, not as recorded");
  simulate
      .AddOption("--cluster", flags->cluster,
                 "A node's preset and the number of GPUs, h800x2048, or a "
                 "text proto")
      ->TypeName("CLUSTER");
  simulate
      .AddOption("--layout", flags->layout,
                 "pp16,ep64,gbs15360,mbs1,seq4096,fp8,...: docs/simulator.md "
                 "has the words")
      ->TypeName("WORDS");
  simulate
      .AddOption("--schedule", flags->schedule,
                 "gpipe, 1f1b, interleaved, zb-h1, zb1p, dualpipe, dualpipev")
      ->TypeName("NAME");
  simulate
      .AddOption("--framework", flags->framework,
                 "Whose software efficiency applies")
      ->TypeName("NAME");
  simulate
      .AddOption("--efficiency", flags->efficiency,
                 "That efficiency itself; 0: the framework's")
      ->TypeName("SHARE")
      ->Check(BetweenNumbers(0.0, 2.0));
  simulate
      .AddOption("--constants", flags->constants,
                 "Constants of the machines and the frameworks, a text proto "
                 "such as sim/validation/constants.textproto; default: that "
                 "one")
      ->TypeName("FILE");
  simulate
      .AddOption("--routing", flags->routing,
                 "A routing trace: experts' loads, and the balancer replayed "
                 "on them")
      ->TypeName("FILE");
  simulate
      .AddOption("--expert-loads", flags->expert_loads,
                 "Experts' loads as CSV: layer,expert,tokens")
      ->TypeName("FILE");
  simulate
      .AddOption("--power-law", flags->power_law,
                 "Experts' loads as rank^-EXPONENT; 0: even")
      ->TypeName("EXPONENT")
      ->Check(BetweenNumbers(0.0, 10.0));
  simulate
      .AddOption("--gini", flags->gini,
                 "Experts' loads as the power law of this Gini coefficient, "
                 "which training prints; 0: even")
      ->TypeName("G")
      ->Check(BetweenNumbers(0.0, 1.0));
  simulate
      .AddOption("--redundant", flags->redundant,
                 "Slots of a rank beyond its experts, for the balancer")
      ->TypeName("N")
      ->Check(Between(0, 1024));
  simulate
      .AddOption("--slow", flags->slow,
                 "Ranks that take longer, RANK=FACTOR; may be repeated")
      ->TypeName("RANK=FACTOR");
  simulate
      .AddOption("--serve", flags->serve,
                 "A serving step instead: prefill or decode")
      ->TypeName("PHASE");
  simulate
      .AddOption("--batch", flags->batch,
                 "Serving: sequences a data-parallel rank")
      ->TypeName("N")
      ->Check(Between(1, int64_t{1} << 20));
  simulate
      .AddOption("--context", flags->context,
                 "Serving: tokens of a prompt, or in the cache")
      ->TypeName("N")
      ->Check(Between(1, int64_t{1} << 24));
  simulate.AddOption("--trace", flags->trace, "Write a Chrome/Perfetto trace")
      ->TypeName("FILE");
  simulate.AddOption("--html", flags->html, "Write a page with charts")
      ->TypeName("FILE");
  simulate
      .AddOption("--compare", flags->compare,
                 "Two results of --json: what differs, and why")
      ->TypeName("A B")
      ->Expected(2);
  simulate.AddFlag("--sweep", flags->sweep,
                   "All layouts that fit, as CSV, the fastest first");
  simulate.AddFlag("--validate", flags->validate,
                   "Published measurements against predictions");
  simulate
      .AddOption("--rows", flags->rows,
                 "With --validate: rows of this CSV instead")
      ->TypeName("FILE");
  AddJson(simulate, flags->json);
  return {&simulate, [flags, &simulate] { return RunModel(*flags, simulate); }};
}

}  // namespace strata
