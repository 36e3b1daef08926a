#include "core/passes/fold_constants.h"

#include <algorithm>
#include <cstddef>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "core/graph/graph.h"
#include "core/graph/op_def.h"
#include "core/tensor/dtype.h"

namespace strata {
namespace {

// [values], what no input enters.
std::vector<bool> FindConstants(const Graph& graph) {
  std::vector<bool> constant(graph.values().size());
  std::vector<bool> is_output(graph.values().size());
  for (const auto& [name, id] : graph.outputs()) is_output[id] = true;
  for (size_t id = 0; id < constant.size(); ++id) {
    constant[id] = graph.value(id).role == Role::kParameter;
  }
  for (const Node& node : graph.nodes()) {
    for (const int input : node.mutates) constant[node.inputs[input]] = false;
  }
  for (const Node& node : graph.nodes()) {
    const bool stays =
        node.inputs.empty() || !node.mutates.empty() ||
        std::any_of(node.inputs.begin(), node.inputs.end(),
                    [&](ValueId id) { return id != kNone && !constant[id]; }) ||
        std::any_of(node.outputs.begin(), node.outputs.end(), [&](ValueId id) {
          return is_output[id] || graph.value(id).type.dtype == DType::kI32;
        });
    for (const ValueId id : node.outputs) constant[id] = !stays;
  }
  return constant;
}

// `values` [of the whole; those that are there] and nodes as a graph of their
// own, where they have other ids.
class Part {
 public:
  Part(const std::vector<Value>& values, const std::vector<bool>& is_there)
      : id_(CopyValues(values, is_there, graph_)) {}

  void Add(Node node) {
    for (ValueId& id : node.inputs) {
      if (id != kNone) id = id_[id];
    }
    for (ValueId& id : node.outputs) id = id_[id];
    graph_.AddNode(std::move(node));
  }
  void SetOutput(const std::string& name, ValueId id) {
    graph_.SetOutput(name, id_[id]);
  }
  Graph Take() { return std::move(graph_); }

 private:
  Graph graph_;
  std::vector<ValueId> id_;  // [values of the whole]
};

}  // namespace

FoldedGraph FoldConstants(const Graph& graph) {
  const std::vector<bool> constant = FindConstants(graph);
  const size_t num_values = constant.size();
  const auto is_folded = [&](const Node& node) {
    return !node.outputs.empty() && constant[node.outputs[0]];
  };
  std::vector<bool> touched(num_values), in_rest(num_values);
  for (size_t id = 0; id < num_values; ++id) {
    in_rest[id] = !constant[id];  // Parameters where they are read.
  }
  for (const Node& node : graph.nodes()) {
    for (const ValueId id : node.inputs) {
      if (id == kNone) continue;
      if (is_folded(node)) {
        touched[id] = true;
      } else {
        in_rest[id] = true;
      }
    }
    for (const ValueId id : node.outputs) {
      if (is_folded(node)) touched[id] = true;
    }
  }

  std::vector<Value> values_of_rest = graph.values();
  Part constants(graph.values(), touched);
  std::map<std::string, int> num_of;  // Nodes of one name.
  for (const Node& node : graph.nodes()) {
    if (!is_folded(node)) continue;
    constants.Add(node);
    const std::string of_node = absl::StrCat(node.scope, "/", node.op->name);
    const int number = num_of[of_node]++;
    for (size_t i = 0; i < node.outputs.size(); ++i) {
      const ValueId id = node.outputs[i];
      if (!in_rest[id]) continue;
      Value& value = values_of_rest[id];
      value.name = absl::StrCat("constant/", of_node, "/", number, "/", i);
      value.role = Role::kState;
      constants.SetOutput(value.name, id);
    }
  }
  Part rest(values_of_rest, in_rest);
  for (const Node& node : graph.nodes()) {
    if (!is_folded(node)) rest.Add(node);
  }
  for (const auto& [name, id] : graph.outputs()) rest.SetOutput(name, id);
  return {constants.Take(), rest.Take()};
}

}  // namespace strata
