#include "core/passes/narrow_weights.h"

#include <algorithm>
#include <cstddef>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "absl/types/span.h"
#include "core/graph/graph.h"
#include "core/graph/op_def.h"
#include "core/tensor/dtype.h"

namespace strata {
namespace {

bool IsCandidate(const Value& value) {
  return value.role == Role::kParameter && value.type.dtype == DType::kF32;
}

bool Updates(const Node& node, ValueId id) {
  return std::any_of(node.mutates.begin(), node.mutates.end(),
                     [&](int i) { return node.inputs[i] == id; });
}

// Whether `node` makes of `inputs` what it makes of its own.
bool InfersTheSame(const Graph& graph, const Node& node,
                   absl::Span<const ValueId> inputs) {
  const auto types = node.op->infer({graph, inputs, {}, node.attrs});
  if (!types.ok() || types->size() != node.outputs.size()) return false;
  for (size_t i = 0; i < node.outputs.size(); ++i) {
    if ((*types)[i].dtype != graph.value(node.outputs[i]).type.dtype) {
      return false;
    }
  }
  return true;
}

}  // namespace

std::vector<NarrowRefusal> NarrowRefusals(const Graph& graph) {
  // Each candidate gets a twin in BF16, to show to its readers.
  Graph with_twins = graph;
  std::vector<ValueId> twin(graph.values().size(), kNone);
  for (size_t id = 0; id < twin.size(); ++id) {
    if (!IsCandidate(graph.value(id))) continue;
    Value value = graph.value(id);
    value.name += " in BF16";
    value.type.dtype = DType::kBF16;
    twin[id] = with_twins.AddValue(std::move(value));
  }
  std::vector<NarrowRefusal> refusals;
  for (size_t n = 0; n < graph.nodes().size(); ++n) {
    const auto node_id = static_cast<NodeId>(n);
    const Node& node = graph.node(node_id);
    for (const ValueId id : node.inputs) {
      if (id == kNone || twin[id] == kNone) continue;
      auto inputs = node.inputs;
      std::replace(inputs.begin(), inputs.end(), id, twin[id]);
      if (Updates(node, id) || !InfersTheSame(with_twins, node, inputs)) {
        refusals.push_back({node_id, id});
      }
    }
  }
  return refusals;
}

std::set<std::string> NarrowableWeights(const Graph& graph) {
  std::set<std::string> names;
  for (const Node& node : graph.nodes()) {
    for (const ValueId id : node.inputs) {
      if (id != kNone && IsCandidate(graph.value(id))) {
        names.insert(graph.value(id).name);
      }
    }
  }
  for (const NarrowRefusal& refusal : NarrowRefusals(graph)) {
    names.erase(graph.value(refusal.weight).name);
  }
  return names;
}

Graph NarrowWeights(const Graph& graph, const std::set<std::string>& names) {
  Graph narrow;
  for (Value value : graph.values()) {
    if (IsCandidate(value) && names.count(value.name) > 0) {
      value.type.dtype = DType::kBF16;
    }
    narrow.AddValue(std::move(value));
  }
  for (const Node& node : graph.nodes()) narrow.AddNode(node);
  for (const auto& [name, value] : graph.outputs()) {
    narrow.SetOutput(name, value);
  }
  return narrow;
}

}  // namespace strata
