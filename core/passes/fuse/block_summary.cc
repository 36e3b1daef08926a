#include "core/passes/fuse/block_summary.h"

#include <cstdint>
#include <string>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "core/graph/graph.h"
#include "core/graph/op_def.h"

namespace strata {
namespace {

bool IsWithin(absl::string_view scope, absl::string_view block) {
  return scope == block || absl::StartsWith(scope, absl::StrCat(block, "."));
}

// The step that an operator belongs to; its own name where it is one alone.
std::string StepOf(absl::string_view op) {
  static const auto* const steps =
      new absl::flat_hash_map<std::string, std::string>{
          {"MaskedSoftmax", "gate"},    {"Sigmoid", "gate"},
          {"TopKSelect", "gate"},       {"AdaptiveSelect", "gate"},
          {"SelectedWeight", "gate"},   {"CarryWeight", "gate"},
          {"CoarseFilter", "gate"},     {"EnergySignature", "gate"},
          {"DispatchPlan", "dispatch"}, {"DispatchRows", "dispatch"},
          {"GroupedMatMul", "experts"}, {"SwiGlu", "experts"},
          {"CombineRows", "combine"},   {"AddBias", "MatMul"}};
  const auto it = steps->find(std::string(op));
  return it == steps->end() ? std::string(op) : it->second;
}

int64_t CountSteps(const std::vector<std::string>& nodes) {
  std::vector<std::string> steps;
  for (const std::string& node : nodes) {
    const std::string step = StepOf(node);
    if (steps.empty()) {
      steps.push_back(step);
      continue;
    }
    std::string& last = steps.back();
    if (step == "gate" && last == "MatMul") last = step;  // Its scores.
    if (step == "Add" && last == "combine") continue;
    if (step == "AddRows" && last == "combine") continue;
    if (step == "experts" && last == "MatMul") last = step;
    if (step == "MatMul" && last == "experts") continue;
    if (step != last) steps.push_back(step);
  }
  return static_cast<int64_t>(steps.size());
}

}  // namespace

BlockSummary SummariseBlock(const Graph& graph, absl::string_view scope) {
  BlockSummary summary;
  std::vector<bool> leaves(graph.values().size());
  for (const auto& [name, value] : graph.outputs()) leaves[value] = true;
  for (const Node& node : graph.nodes()) {
    if (IsWithin(node.scope, scope)) continue;
    for (const ValueId input : node.inputs) {
      if (input != kNone) leaves[input] = true;
    }
  }
  for (const Node& node : graph.nodes()) {
    if (!IsWithin(node.scope, scope)) continue;
    summary.nodes.emplace_back(node.op->name);
    for (const ValueId output : node.outputs) {
      if (leaves[output]) continue;
      summary.intermediate_bytes += graph.value(output).type.max_bytes();
    }
    const Cost cost = CostOf(graph, node, Binding());
    summary.cost.flops += cost.flops;
    summary.cost.bytes_read += cost.bytes_read;
    summary.cost.bytes_written += cost.bytes_written;
  }
  summary.num_basic = CountSteps(summary.nodes);
  return summary;
}

}  // namespace strata
