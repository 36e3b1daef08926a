#include "core/passes/hide_exchanges.h"

#include <algorithm>
#include <deque>
#include <set>
#include <utility>
#include <vector>

#include "absl/algorithm/container.h"
#include "core/base/check.h"
#include "core/graph/graph.h"
#include "core/graph/op_def.h"
#include "core/ops/collective_rows.h"
#include "core/passes/nodes_before.h"

namespace strata {
namespace {

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
  return InOrder(graph, Order(graph, flops_per_wire_byte).Run(),
                 [](Node& node) {
                   if (MovesRows(node)) node.attrs = BesideAttrs(node.attrs);
                 });
}

}  // namespace strata
