#include "core/passes/slot_dots.h"

#include <algorithm>
#include <map>
#include <utility>
#include <vector>

#include "core/graph/graph.h"
#include "core/graph/op_def.h"
#include "core/ops/dispatch.h"
#include "core/ops/grouped_matmul.h"
#include "core/ops/slot_dot.h"

namespace strata {
namespace {

// The nodes of a graph by what they read.
class Finder {
 public:
  explicit Finder(const Graph& graph)
      : graph_(graph), readers_(graph.values().size()) {
    for (size_t id = 0; id < graph.nodes().size(); ++id) {
      for (const ValueId input : graph.node(static_cast<NodeId>(id)).inputs) {
        if (input != kNone) readers_[input].push_back(static_cast<NodeId>(id));
      }
    }
  }

  // Where SlotDot can stand instead of `row_dot`: behind the node it returns,
  // which makes dh; kNone if nowhere.
  NodeId Find(NodeId row_dot, Node& slot_dot) const {
    const Node& old = graph_.node(row_dot);
    const ValueId dout = old.inputs[0], y = old.inputs[1];
    const NodeId product = graph_.value(y).producer;
    if (product == kNone || graph_.node(product).op != &kGroupedMatMul) {
      return kNone;
    }
    const Node& down = graph_.node(product);
    const ValueId weight = WeightOf(y, old.inputs[2]);
    const ValueId dy = weight == kNone ? kNone : RowsOf(dout, weight);
    const NodeId made = dy == kNone ? kNone : InputGradOf(dy, down);
    if (made == kNone) return kNone;
    const auto& readers = readers_[old.outputs[0]];
    if (std::any_of(readers.begin(), readers.end(),
                    [&](NodeId id) { return id < made; })) {
      return kNone;
    }
    slot_dot = old;
    slot_dot.op = &kSlotDot;
    slot_dot.inputs = {graph_.node(made).outputs[0], down.inputs[0],
                       old.inputs[2], weight};
    return made;
  }

 private:
  // By which y is summed for tokens.
  ValueId WeightOf(ValueId y, ValueId slot_row) const {
    for (const NodeId id : readers_[y]) {
      const Node& node = graph_.node(id);
      if (node.op == &kCombineRows && node.inputs.size() > 3 &&
          node.inputs[0] == y && node.inputs[2] == slot_row) {
        return node.inputs[3];
      }
    }
    return kNone;
  }

  // dout by slot, times the weights.
  ValueId RowsOf(ValueId dout, ValueId weight) const {
    for (const NodeId id : readers_[dout]) {
      const Node& node = graph_.node(id);
      if (node.op == &kDispatchRows && node.inputs.size() > 3 &&
          node.inputs[0] == dout && node.inputs[3] == weight) {
        return node.outputs[0];
      }
    }
    return kNone;
  }

  // The product of dy by the transposed weights of `down`.
  NodeId InputGradOf(ValueId dy, const Node& down) const {
    for (const NodeId id : readers_[dy]) {
      const Node& node = graph_.node(id);
      if (node.op == &kGroupedMatMul && node.inputs[0] == dy &&
          node.inputs[1] == down.inputs[1] &&
          node.inputs[2] == down.inputs[2] &&
          node.attrs.Int("transpose_w") != down.attrs.Int("transpose_w")) {
        return id;
      }
    }
    return kNone;
  }

  const Graph& graph_;
  std::vector<std::vector<NodeId>> readers_;  // [values]
};

}  // namespace

Graph UseSlotDots(const Graph& gradients) {
  const Finder finder(gradients);
  std::map<NodeId, std::vector<Node>> behind;
  std::vector<bool> gone(gradients.nodes().size());
  for (size_t i = 0; i < gone.size(); ++i) {
    const auto id = static_cast<NodeId>(i);
    if (gradients.node(id).op != &kRowDot) continue;
    Node slot_dot;
    const NodeId place = finder.Find(id, slot_dot);
    if (place == kNone) continue;
    gone[i] = true;
    behind[place].push_back(std::move(slot_dot));
  }
  Graph result;
  for (Value value : gradients.values()) {
    value.producer = kNone;
    result.AddValue(std::move(value));
  }
  for (size_t i = 0; i < gone.size(); ++i) {
    const auto id = static_cast<NodeId>(i);
    if (!gone[i]) result.AddNode(gradients.node(id));
    const auto it = behind.find(id);
    if (it == behind.end()) continue;
    for (Node& node : it->second) result.AddNode(std::move(node));
  }
  for (const auto& [name, id] : gradients.outputs()) {
    result.SetOutput(name, id);
  }
  return result;
}

}  // namespace strata
