#include "core/passes/nodes_before.h"

#include <map>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "absl/functional/function_ref.h"
#include "core/graph/graph.h"

namespace strata {

std::vector<std::set<NodeId>> NodesBefore(const Graph& graph) {
  std::vector<std::set<NodeId>> before(graph.nodes().size());
  std::map<std::string, NodeId> last_of_group;
  // Of values that nodes change in place: who did last, and who read since.
  std::map<ValueId, NodeId> last_change;
  std::map<ValueId, std::vector<NodeId>> readers;
  const auto after_maker = [&](NodeId id, ValueId value) {
    const NodeId maker = graph.value(value).producer;
    if (maker != kNone && maker != id) before[id].insert(maker);
  };
  for (NodeId id = 0; id < static_cast<NodeId>(before.size()); ++id) {
    const Node& node = graph.node(id);
    std::set<ValueId> changed;
    for (const int i : node.mutates) changed.insert(node.inputs[i]);
    const auto after_counts = [&](ValueId value) {
      for (const Dim& dim : graph.value(value).type.dims) {
        if (dim.ragged()) after_maker(id, dim.count);
      }
    };
    for (const ValueId value : node.outputs) after_counts(value);
    for (const ValueId value : node.inputs) {
      if (value == kNone) continue;
      after_maker(id, value);
      after_counts(value);
      if (const auto it = last_change.find(value); it != last_change.end()) {
        before[id].insert(it->second);
      }
      if (changed.count(value) == 0) {
        readers[value].push_back(id);
        continue;
      }
      for (const NodeId reader : readers[value]) {
        if (reader != id) before[id].insert(reader);
      }
      readers[value].clear();
      last_change[value] = id;
    }
    if (node.attrs.Has("group")) {
      const auto [it, is_first] =
          last_of_group.try_emplace(node.attrs.String("group"), id);
      if (!is_first) before[id].insert(it->second);
      it->second = id;
    }
  }
  return before;
}

Graph InOrder(const Graph& graph, const std::vector<NodeId>& order,
              absl::FunctionRef<void(Node&)> change) {
  Graph ordered;
  for (const Value& value : graph.values()) ordered.AddValue(value);
  for (const NodeId id : order) {
    Node node = graph.node(id);
    change(node);
    ordered.AddNode(std::move(node));
  }
  for (const auto& [name, value] : graph.outputs()) {
    ordered.SetOutput(name, value);
  }
  return ordered;
}

}  // namespace strata
