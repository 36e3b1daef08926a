#include "core/passes/hide_exchanges.h"

#include <algorithm>
#include <deque>
#include <map>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "absl/algorithm/container.h"
#include "core/base/check.h"
#include "core/graph/graph.h"
#include "core/graph/op_def.h"
#include "core/ops/collective_rows.h"

namespace strata {
namespace {

// Which nodes must come before each.
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

class Order {
 public:
  Order(const Graph& graph, double flops_per_wire_byte)
      : graph_(graph),
        flops_per_wire_byte_(flops_per_wire_byte),
        before_(NodesBefore(graph)),
        after_(before_.size()),
        missing_(before_.size()) {
    for (NodeId id = 0; id < static_cast<NodeId>(before_.size()); ++id) {
      missing_[id] = static_cast<int>(before_[id].size());
      for (const NodeId other : before_[id]) after_[other].push_back(id);
      if (missing_[id] == 0) ready_.insert(id);
    }
  }

  std::vector<NodeId> Run() {
    while (!ready_.empty()) Take(Next());
    CHECK(order_.size() == before_.size()) << "the graph has a circle";
    return std::move(order_);
  }

 private:
  struct OnItsWay {
    NodeId exchange = kNone;
    double flops = 0;  // Of work that is still to hide it.
  };

  // Whether it reads what is on its way, or is a call of that group in its own
  // place.
  bool Waits(NodeId id) const {
    const Node& node = graph_.node(id);
    return std::any_of(
        on_their_way_.begin(), on_their_way_.end(), [&](const OnItsWay& x) {
          const Node& exchange = graph_.node(x.exchange);
          return absl::c_linear_search(node.inputs, exchange.outputs[0]) ||
                 (!MovesRows(node) && node.attrs.Has("group") &&
                  node.attrs.String("group") == exchange.attrs.String("group"));
        });
  }

  NodeId Next() {
    NodeId first = kNone;
    for (const NodeId id : ready_) {
      if (Waits(id)) continue;
      if (MovesRows(graph_.node(id))) return id;
      if (first == kNone) first = id;
    }
    if (first != kNone) return first;
    on_their_way_.pop_front();  // Nothing else is left to do meanwhile.
    return Next();
  }

  void Take(NodeId id) {
    const Cost cost = CostOf(graph_, graph_.node(id), Binding());
    if (MovesRows(graph_.node(id))) {
      on_their_way_.push_back({id, cost.bytes_on_wire * flops_per_wire_byte_});
    } else if (!on_their_way_.empty()) {
      OnItsWay& first = on_their_way_.front();
      first.flops -= cost.flops;
      if (first.flops <= 0) on_their_way_.pop_front();
    }
    ready_.erase(id);
    order_.push_back(id);
    for (const NodeId next : after_[id]) {
      if (--missing_[next] == 0) ready_.insert(next);
    }
  }

  const Graph& graph_;
  const double flops_per_wire_byte_;
  const std::vector<std::set<NodeId>> before_;  // [nodes]
  std::vector<std::vector<NodeId>> after_;      // [nodes]
  std::vector<int> missing_;  // [nodes], of those before that are not taken.
  std::set<NodeId> ready_;
  std::deque<OnItsWay> on_their_way_;  // One after the other.
  std::vector<NodeId> order_;
};

}  // namespace

Graph HideExchanges(const Graph& graph, double flops_per_wire_byte) {
  Graph ordered;
  for (const Value& value : graph.values()) ordered.AddValue(value);
  for (const NodeId id : Order(graph, flops_per_wire_byte).Run()) {
    Node node = graph.node(id);
    if (MovesRows(node)) node.attrs = BesideAttrs(node.attrs);
    ordered.AddNode(std::move(node));
  }
  for (const auto& [name, value] : graph.outputs()) {
    ordered.SetOutput(name, value);
  }
  return ordered;
}

}  // namespace strata
