// strata info

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "core/base/manifest.h"
#include "core/base/progress.h"
#include "core/base/sha256.h"
#include "core/base/status_macros.h"
#include "core/checkpoint/model_files.h"
#include "core/checkpoint/stored_tensor.h"
#include "core/checkpoint/weight_files.h"
#include "core/graph/builder.h"
#include "core/graph/graph.h"
#include "core/graph/op_def.h"
#include "core/model/config.h"
#include "core/model/count.h"
#include "core/model/decoder.h"
#include "core/passes/fuse/block_summary.h"
#include "core/passes/fuse/fuse.h"
#include "core/passes/plan_memory.h"
#include "core/quant/format.h"
#include "core/quant/packed_tensors.h"
#include "core/tensor/dtype.h"
#include "nlohmann/json.hpp"
#include "tools/scorecard/serving_step.h"
#include "tools/strata/command.h"
#include "tools/strata/config_flags.h"
#include "tools/strata/option_parser.h"
#include "tools/strata/output.h"
#include "training/run/model_folder.h"
#include "training/step_graph.h"

namespace strata {
namespace {

constexpr size_t kLargestValues = 20;

struct InfoFlags {
  std::string preset;
  std::string model;
  std::vector<std::string> set;
  int64_t tokens = 2048;
  bool graph = false;
  bool backward = false;
  bool memory = false;
  bool passes = false;
  bool json = false;
};

absl::StatusOr<ModelConfig> ChooseConfig(const InfoFlags& flags) {
  Configs configs;
  if (!flags.model.empty()) {
    ASSIGN_OR_RETURN(const std::string folder, FindModel(flags.model));
    ASSIGN_OR_RETURN(configs.model, LoadModelConfig(folder));
  } else {
    ASSIGN_OR_RETURN(configs.model, ModelPreset(flags.preset));
  }
  RETURN_IF_ERROR(SetFields(flags.set, configs));
  RETURN_IF_ERROR(Validate(configs.model));
  return configs.model;
}

// Of one sequence of `tokens` tokens.
absl::StatusOr<Graph> BuildGraph(const ModelConfig& config, int64_t tokens,
                                 bool backward) {
  if (backward) {
    ASSIGN_OR_RETURN(StepGraph step,
                     BuildGradientGraph(config, /*num_sequences=*/1, tokens));
    return std::move(step.graph);
  }
  GraphBuilder builder;
  DecoderOptions options;
  options.mode = DecoderOptions::Mode::kEvaluate;
  options.max_tokens = tokens;
  BuildDecoder(builder, config, options);
  return builder.Finish();
}

std::vector<std::pair<std::string, int64_t>> Parts(const ParameterCount& n) {
  return {{"embedding", n.embedding},
          {"attention", n.attention},
          {"dense", n.dense},
          {"routed_experts", n.routed_experts},
          {"shared_experts", n.shared_experts},
          {"gates", n.gates},
          {"norms", n.norms},
          {"output", n.output},
          {"mtp", n.mtp}};
}

// FLOPs per token at the graph's bounds, by phase; those without any left out.
std::vector<std::pair<std::string, double>> FlopsPerToken(const Graph& graph,
                                                          int64_t tokens) {
  std::vector<std::pair<std::string, double>> flops;
  for (const auto& [name, phase] :
       {std::pair<const char*, Phase>{"forward", Phase::kForward},
        {"input_gradients", Phase::kInputGrad},
        {"weight_gradients", Phase::kWeightGrad},
        {"accumulation", Phase::kUpdate}}) {
    const double sum = CostOf(graph, phase, Binding()).flops;
    if (sum > 0) flops.emplace_back(name, sum / static_cast<double>(tokens));
  }
  return flops;
}

std::map<std::string, int64_t> NodesByOperator(const Graph& graph) {
  std::map<std::string, int64_t> count;
  for (const Node& node : graph.nodes()) ++count[std::string(node.op->name)];
  return count;
}

std::string ParameterTable(const ModelConfig& config) {
  const ParameterCount count = CountParametersByPart(config);
  const auto total = static_cast<double>(count.total());
  std::vector<std::vector<std::string>> rows = {
      {"parameters", "number", "share"}};
  for (const auto& [part, number] : Parts(count)) {
    if (number == 0) continue;
    rows.push_back({part, FormatInteger(number),
                    absl::StrFormat(
                        "%.1f %%", 100 * static_cast<double>(number) / total)});
  }
  rows.push_back({"total", FormatInteger(count.total()), ""});
  return FormatTable(rows);
}

std::string FlopsTable(const Graph& graph, int64_t tokens) {
  std::vector<std::vector<std::string>> rows = {{"FLOPs per token", ""}};
  double total = 0;
  for (const auto& [phase, flops] : FlopsPerToken(graph, tokens)) {
    rows.push_back({phase, FormatCount(flops)});
    total += flops;
  }
  if (rows.size() > 2) rows.push_back({"total", FormatCount(total)});
  return FormatTable(rows);
}

// The values that take most of the arena.
std::string LargestTable(const Graph& graph, const MemoryPlan& plan) {
  std::vector<ValueId> values;
  for (size_t id = 0; id < plan.offset.size(); ++id) {
    if (plan.offset[id] >= 0) values.push_back(static_cast<ValueId>(id));
  }
  std::stable_sort(values.begin(), values.end(), [&](ValueId a, ValueId b) {
    return graph.value(a).type.max_bytes() > graph.value(b).type.max_bytes();
  });
  if (values.size() > kLargestValues) values.resize(kLargestValues);
  std::vector<std::vector<std::string>> rows = {
      {"largest values", "type", "bytes", "offset"}};
  for (const ValueId id : values) {
    const Value& value = graph.value(id);
    const Node& node = graph.node(value.producer);
    rows.push_back({absl::StrCat("%", id, " ", node.scope, " ", node.op->name),
                    ToText(graph, value.type),
                    FormatInteger(value.type.max_bytes()),
                    FormatInteger(plan.offset[id])});
  }
  return FormatTable(rows);
}

// A block of the serving engine's step of `tokens` tokens, before fusion and
// after, and what the whole step needs.
struct Passes {
  int64_t tokens = 0;
  std::string block;
  BlockSummary before, after;
  MemoryPlan plan_before, plan_after;
};

absl::StatusOr<Passes> RunPasses(const ModelConfig& config, int64_t tokens) {
  ASSIGN_OR_RETURN(const Graph before, ServingStep(config, tokens));
  const Graph after = Fuse(before);
  Passes passes;
  passes.tokens = tokens;
  passes.block = absl::StrCat("model.layers.", config.num_layers() - 1);
  passes.before = SummariseBlock(before, passes.block);
  passes.after = SummariseBlock(after, passes.block);
  passes.plan_before = PlanMemory(before);
  passes.plan_after = PlanMemory(after);
  return passes;
}

// "RmsNorm, MatMul x 3, Rope x 2": operators in order, neighbours counted.
std::string OperatorLine(const std::vector<std::string>& nodes) {
  std::string line;
  for (size_t i = 0; i < nodes.size();) {
    size_t end = i;
    while (end < nodes.size() && nodes[end] == nodes[i]) ++end;
    absl::StrAppend(&line, i > 0 ? ", " : "", nodes[i]);
    if (end - i > 1) absl::StrAppend(&line, " x ", end - i);
    i = end;
  }
  return line;
}

std::string PassesText(const Passes& passes) {
  const auto megabytes = [](double bytes) {
    return absl::StrFormat("%.2f", bytes / 1e6);
  };
  const auto row = [&](const std::string& what, double before, double after) {
    return std::vector<std::string>{what,
                                    FormatInteger(static_cast<int64_t>(before)),
                                    FormatInteger(static_cast<int64_t>(after))};
  };
  const BlockSummary& before = passes.before;
  const BlockSummary& after = passes.after;
  std::vector<std::vector<std::string>> rows = {
      {passes.block, "before", "after"},
      row("launches (nodes)", before.nodes.size(), after.nodes.size()),
      row("basic operators", before.num_basic, after.num_basic),
      {"MB between operators", megabytes(before.intermediate_bytes),
       megabytes(after.intermediate_bytes)},
      {"MB moved, at most",
       megabytes(before.cost.bytes_read + before.cost.bytes_written),
       megabytes(after.cost.bytes_read + after.cost.bytes_written)},
      {"FLOPs", FormatCount(before.cost.flops), FormatCount(after.cost.flops)},
      {"the whole step:", "", ""},
      {"MB, one buffer a value", megabytes(passes.plan_before.unshared_bytes),
       megabytes(passes.plan_after.unshared_bytes)},
      {"MB of the arena", megabytes(passes.plan_before.arena_bytes),
       megabytes(passes.plan_after.arena_bytes)}};
  return absl::StrCat("A step of the serving engine, ", passes.tokens,
                      " tokens\n", FormatTable(rows), "\nbefore  ",
                      OperatorLine(before.nodes), "\nafter   ",
                      OperatorLine(after.nodes), "\n");
}

nlohmann::ordered_json ToJson(const BlockSummary& block,
                              const MemoryPlan& plan) {
  return {{"operators", block.nodes},
          {"launches", block.nodes.size()},
          {"basic_operators", block.num_basic},
          {"intermediate_bytes", block.intermediate_bytes},
          {"flops", block.cost.flops},
          {"bytes_read", block.cost.bytes_read},
          {"bytes_written", block.cost.bytes_written},
          {"step_bytes_without_reuse", plan.unshared_bytes},
          {"step_bytes", plan.arena_bytes}};
}

// What the folder's tensors are stored as.
struct StoredAs {
  int64_t tensors = 0;
  int64_t numbers = 0;
  int64_t bytes = 0;
};

absl::StatusOr<std::map<std::string, StoredAs>> WeightsOf(
    const std::string& folder) {
  std::map<std::string, StoredAs> weights;
  ASSIGN_OR_RETURN(const WeightFiles files, WeightFiles::Open(folder));
  for (const auto& [name, tensor] : files.tensors()) {
    const bool packed = tensor.packing == StoredTensor::Packing::kGroups;
    StoredAs& as = weights[packed ? ToText(tensor.groups.format)
                                  : std::string(Name(tensor.view.dtype))];
    ++as.tensors;
    as.numbers += tensor.view.num_elements();
    as.bytes += packed ? StoredBytes(tensor) : tensor.view.num_bytes();
  }
  return weights;
}

std::string StoredTable(const std::map<std::string, StoredAs>& weights) {
  std::vector<std::vector<std::string>> rows = {
      {"stored as", "tensors", "numbers", "bytes"}};
  for (const auto& [kind, as] : weights) {
    rows.push_back({kind, FormatInteger(as.tensors), FormatInteger(as.numbers),
                    FormatInteger(as.bytes)});
  }
  return FormatTable(rows);
}

nlohmann::ordered_json InfoJson(const InfoFlags& flags,
                                const ModelConfig& config, const Graph& graph,
                                const MemoryPlan& plan) {
  const std::string config_json = ToJson(config);
  nlohmann::ordered_json json;
  json["config"] = nlohmann::ordered_json::parse(config_json);
  const ParameterCount count = CountParametersByPart(config);
  for (const auto& [part, number] : Parts(count)) {
    json["parameters"][part] = number;
  }
  json["parameters"]["total"] = count.total();
  json["tokens"] = flags.tokens;
  for (const auto& [phase, flops] : FlopsPerToken(graph, flags.tokens)) {
    json["flops_per_token"][phase] = flops;
  }
  json["nodes"] = NodesByOperator(graph);
  json["memory"] = {{"values", plan.num_values},
                    {"bytes_without_reuse", plan.unshared_bytes},
                    {"bytes", plan.arena_bytes},
                    {"lower_bound_bytes", plan.lower_bound_bytes}};
  if (plan.unshared_bytes > 0) {
    json["memory"]["ratio"] = static_cast<double>(plan.arena_bytes) /
                              static_cast<double>(plan.unshared_bytes);
  }
  if (flags.graph) json["graph"] = ToText(graph);
  Manifest manifest = NewManifest();
  manifest.config_hash = Sha256Hex(config_json);
  json["manifest"] = ToJson(manifest);
  return json;
}

absl::StatusOr<int> RunInfo(const InfoFlags& flags) {
  ASSIGN_OR_RETURN(const ModelConfig config, ChooseConfig(flags));
  ASSIGN_OR_RETURN(const Graph graph,
                   BuildGraph(config, flags.tokens, flags.backward));
  const MemoryPlan plan = PlanMemory(graph);
  std::optional<Passes> passes;
  if (flags.passes) {
    // As many as the engine computes in one step.
    constexpr int64_t kStepTokens = 256;
    ASSIGN_OR_RETURN(passes,
                     RunPasses(config, std::min(flags.tokens, kStepTokens)));
  }
  std::map<std::string, StoredAs> weights;
  if (!flags.model.empty()) {
    ASSIGN_OR_RETURN(const std::string folder, FindModel(flags.model));
    ASSIGN_OR_RETURN(weights, WeightsOf(folder));
  }
  if (flags.json) {
    nlohmann::ordered_json json = InfoJson(flags, config, graph, plan);
    for (const auto& [kind, as] : weights) {
      json["weights"][kind] = {{"tensors", as.tensors},
                               {"numbers", as.numbers},
                               {"bytes", as.bytes}};
    }
    if (passes) {
      json["passes"] = {{"tokens", passes->tokens},
                        {"block", passes->block},
                        {"before", ToJson(passes->before, passes->plan_before)},
                        {"after", ToJson(passes->after, passes->plan_after)}};
    }
    PrintJson(json);
    return 0;
  }

  std::string text = absl::StrCat(
      ToJson(config), "\n", ParameterTable(config), "\n",
      weights.empty() ? "" : StoredTable(weights) + "\n",
      FlopsTable(graph, flags.tokens), "At most, in a sequence of ",
      flags.tokens, " tokens.\n\n", "graph   ", graph.nodes().size(),
      " nodes, ", flags.backward ? "forward and backward" : "forward", "\n",
      "memory  ", plan.ToString(), "\n");
  if (passes) absl::StrAppend(&text, "\n", PassesText(*passes));
  if (flags.memory) absl::StrAppend(&text, "\n", LargestTable(graph, plan));
  if (flags.graph) absl::StrAppend(&text, "\n", ToText(graph));
  Print(text);
  return 0;
}

}  // namespace

Command AddInfo(OptionParser& app) {
  OptionParser* info = app.AddSubcommand(
      "info", "Show a model's config, parameters, FLOPs, graph and memory");
  auto flags = std::make_shared<InfoFlags>();
  auto* which = info->AddGroup("model");
  AddPreset(*which, flags->preset);
  which
      ->AddOption("--model", flags->model,
                  "Checkpoint, or run of which the newest is taken")
      ->TypeName("DIR");
  which->RequireOption(1, 1);
  AddSet(*info, flags->set);
  info->AddOption("--tokens", flags->tokens,
                  "Tokens of the batch that graph and memory are for")
      ->TypeName("N")
      ->Check(Between(1, 1 << 24));
  info->AddFlag("--graph", flags->graph, "Print the operators, one a line");
  info->AddFlag("--backward", flags->backward,
                "Of the training graph: forward, backward, accumulation");
  info->AddFlag("--memory", flags->memory,
                absl::StrCat("Print the ", kLargestValues,
                             " largest values of the memory plan"));
  info->AddFlag("--passes", flags->passes,
                "A block of the serving engine's step before and after fusion");
  AddJson(*info, flags->json);
  return {info, [flags] { return RunInfo(*flags); }};
}

}  // namespace strata
