#include "core/passes/add_in_stores.h"

#include <algorithm>
#include <cstddef>
#include <utility>
#include <vector>

#include "core/graph/graph.h"
#include "core/graph/op_def.h"
#include "core/ops/dispatch.h"
#include "core/ops/elementwise.h"
#include "core/ops/fed_norm.h"
#include "core/ops/norm.h"

namespace strata {
namespace {

// The inputs at which an operator takes what it adds to one of its outputs.
struct Slots {
  const OpDef* op;
  size_t output;
  size_t first;
  size_t num;
};

const Slots kSlots[] = {
    {&kCombineRows, 0, kCombineRowsAdd, 2},
    // The second is for the terms of a sum that is the first.
    {&kRmsNormInputGrad, 0, kRmsNormInputGradAdd, 1},
    {&kFedNormInputGrad, 0, kFedNormToBefore, 1},
    {&kFedNormInputGrad, 1, kFedNormToRows, 1},
};

bool HasInput(const Node& node, size_t i) {
  return i < node.inputs.size() && node.inputs[i] != kNone;
}

void SetInput(Node& node, size_t i, ValueId value) {
  if (node.inputs.size() <= i) node.inputs.resize(i + 1, kNone);
  node.inputs[i] = value;
}

// The nodes of a graph, changed one Add at a time. A node's index is its place.
class Stores {
 public:
  explicit Stores(const Graph& graph)
      : graph_(graph),
        nodes_(graph.nodes().begin(), graph.nodes().end()),
        gone_(nodes_.size()),
        stays_(graph.values().size(), true),
        maker_(graph.values().size(), kNone),
        readers_(graph.values().size()),
        is_fixed_(graph.values().size()) {
    for (size_t n = 0; n < nodes_.size(); ++n) {
      const auto id = static_cast<NodeId>(n);
      for (const ValueId in : nodes_[n].inputs) {
        if (in != kNone) readers_[in].push_back(id);
      }
      for (const ValueId out : nodes_[n].outputs) maker_[out] = id;
      for (const int i : nodes_[n].mutates) {
        is_fixed_[nodes_[n].inputs[i]] = true;
      }
    }
    for (const auto& [name, id] : graph.outputs()) is_fixed_[id] = true;
  }

  // Has one of the terms of node `add` take the other, if one can.
  void TryAdd(NodeId add) {
    const Node& node = nodes_[add];
    ValueId last = node.inputs[0], first = node.inputs[1];
    if (maker_[last] < maker_[first]) std::swap(last, first);
    if (!Take(add, last, first)) Take(add, first, last);
  }

  AddedInStores Write() && {
    AddedInStores result;
    result.value = CopyValues(graph_.values(), stays_, result.graph);
    const auto moved = [&](ValueId id) {
      return id == kNone ? kNone : result.value[id];
    };
    for (size_t n = 0; n < nodes_.size(); ++n) {
      if (gone_[n]) continue;
      Node node = std::move(nodes_[n]);
      for (ValueId& input : node.inputs) input = moved(input);
      for (ValueId& output : node.outputs) output = moved(output);
      result.graph.AddNode(std::move(node));
    }
    for (const auto& [name, id] : graph_.outputs()) {
      result.graph.SetOutput(name, moved(id));
    }
    return result;
  }

 private:
  // Whether `node` reads `value`, no other does, and it may vanish.
  bool IsOnlyOf(ValueId value, NodeId node) const {
    return readers_[value].size() == 1 && readers_[value][0] == node &&
           !is_fixed_[value];
  }

  // Has what makes `term` add `other` and make the result of `add`; returns
  // whether it can.
  bool Take(NodeId add, ValueId term, ValueId other) {
    const NodeId maker = maker_[term];
    if (maker == kNone || !IsOnlyOf(term, add) || maker_[other] == maker ||
        nodes_[maker].phase != nodes_[add].phase) {
      return false;
    }
    const Slots* const slots = FindSlots(nodes_[maker], term);
    if (slots == nullptr) return false;
    size_t slot = slots->first;
    while (HasInput(nodes_[maker], slot)) ++slot;
    if (slot >= slots->first + slots->num) return false;
    const bool moves = maker_[other] > maker;
    if (moves && !MayMove(maker, add)) return false;

    const ValueId sum = nodes_[add].outputs[0];
    const NodeId place = moves ? add : maker;
    Node node = std::move(nodes_[maker]);
    gone_[moves ? maker : add] = true;
    for (const ValueId in : node.inputs) {
      if (in != kNone) ReadsAt(in, maker, place);
    }
    ReadsAt(other, add, place);
    SetInput(node, slot, other);
    node.outputs[slots->output] = sum;
    for (const ValueId out : node.outputs) maker_[out] = place;
    stays_[term] = false;
    nodes_[place] = std::move(node);
    if (slots->op == &kRmsNormInputGrad) TakeTermsOf(other, place);
    return true;
  }

  static const Slots* FindSlots(const Node& node, ValueId output) {
    for (const Slots& slots : kSlots) {
      if (node.op == slots.op && node.outputs[slots.output] == output) {
        return &slots;
      }
    }
    return nullptr;
  }

  // Whether `maker` may stand where `add` does.
  bool MayMove(NodeId maker, NodeId add) const {
    const Node& node = nodes_[maker];
    const auto changes = [&](ValueId id) {
      return id != kNone && graph_.value(id).producer == kNone && is_fixed_[id];
    };
    const auto is_early = [&](NodeId reader) { return reader < add; };
    return std::none_of(node.inputs.begin(), node.inputs.end(), changes) &&
           std::none_of(node.outputs.begin(), node.outputs.end(),
                        [&](ValueId out) {
                          return std::any_of(readers_[out].begin(),
                                             readers_[out].end(), is_early);
                        });
  }

  // Of `sum`, which the node at `place` adds: both terms, if it is the sum's
  // only reader.
  void TakeTermsOf(ValueId sum, NodeId place) {
    const NodeId maker = maker_[sum];
    if (maker == kNone || nodes_[maker].op != &kAdd || !IsOnlyOf(sum, place) ||
        nodes_[maker].phase != nodes_[place].phase) {
      return;
    }
    gone_[maker] = true;
    stays_[sum] = false;
    for (size_t i = 0; i < 2; ++i) {
      const ValueId term = nodes_[maker].inputs[i];
      SetInput(nodes_[place], kRmsNormInputGradAdd + i, term);
      ReadsAt(term, maker, place);
    }
  }

  void ReadsAt(ValueId value, NodeId before, NodeId now) {
    std::replace(readers_[value].begin(), readers_[value].end(), before, now);
  }

  const Graph& graph_;
  std::vector<Node> nodes_;
  std::vector<bool> gone_;                    // [nodes]
  std::vector<bool> stays_;                   // [values]
  std::vector<NodeId> maker_;                 // [values]
  std::vector<std::vector<NodeId>> readers_;  // [values]
  std::vector<bool> is_fixed_;  // [values], outputs and what is updated.
};

}  // namespace

AddedInStores AddInStores(const Graph& gradients) {
  Stores stores(gradients);
  for (size_t n = 0; n < gradients.nodes().size(); ++n) {
    if (gradients.node(static_cast<NodeId>(n)).op == &kAdd) {
      stores.TryAdd(static_cast<NodeId>(n));
    }
  }
  return std::move(stores).Write();
}

}  // namespace strata
