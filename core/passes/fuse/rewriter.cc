#include "core/passes/fuse/rewriter.h"

#include <algorithm>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "absl/algorithm/container.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/types/span.h"
#include "core/base/check.h"
#include "core/graph/graph.h"
#include "core/graph/op_def.h"
#include "core/tensor/dtype.h"

namespace strata {
namespace {

// As core/runtime/kernel_registry.h chooses a node's kernel.
DType SelectingDType(const Graph& graph, absl::Span<const ValueId> inputs,
                     absl::Span<const ValueType> outputs) {
  for (const ValueId input : inputs) {
    if (input == kNone) continue;
    const DType dtype = graph.value(input).type.dtype;
    if (IsFloat(dtype)) return dtype;
  }
  for (const ValueType& type : outputs) {
    if (IsFloat(type.dtype)) return type.dtype;
  }
  return DType::kI32;
}

bool SameType(const ValueType& a, const ValueType& b) {
  return a.dtype == b.dtype && a.dims == b.dims;
}

}  // namespace

Rewriter::Rewriter(const Graph& graph, HasKernel has_kernel, Stays stays)
    : graph_(graph),
      has_kernel_(std::move(has_kernel)),
      stays_(std::move(stays)),
      readers_(graph.values().size()),
      sized_(graph.values().size()),
      is_output_(graph.values().size()),
      gone_(graph.nodes().size()) {
  for (size_t id = 0; id < graph.values().size(); ++id) {
    const Value& value = graph.value(id);
    work_.AddValue(value);
    for (const Dim& dim : value.type.dims) {
      if (dim.ragged()) sized_[dim.count].push_back(id);
    }
  }
  for (size_t id = 0; id < graph.nodes().size(); ++id) {
    for (const ValueId input : graph.node(id).inputs) {
      if (input != kNone) readers_[input].push_back(id);
    }
  }
  for (const auto& [name, value] : graph.outputs()) is_output_[value] = true;
}

const Node* Rewriter::Maker(ValueId value, const OpDef& op) const {
  if (value == kNone) return nullptr;
  const NodeId id = graph_.value(value).producer;
  if (id == kNone || gone_[id] || graph_.node(id).op->name != op.name) {
    return nullptr;
  }
  return &graph_.node(id);
}

absl::Span<const NodeId> Rewriter::Readers(ValueId value) const {
  return readers_[value];
}

const Node* Rewriter::OnlyReader(ValueId value, const OpDef& op,
                                 int input) const {
  if (readers_[value].size() != 1) return nullptr;
  const Node& node = graph_.node(readers_[value][0]);
  if (!IsThere(node) || node.op->name != op.name ||
      node.inputs[input] != value) {
    return nullptr;
  }
  return &node;
}

bool Rewriter::Allowed(const Fusion& fusion, NodeId place) const {
  std::set<NodeId> nodes;
  for (const Node* node : fusion.nodes) {
    if (!IsThere(*node) || node->phase != Phase::kForward) return false;
    nodes.insert(IdOf(*node));
  }
  const NodeId first = *nodes.begin();
  const auto stays = [&](ValueId value) {
    return absl::c_linear_search(fusion.outputs, value);
  };
  for (const NodeId id : nodes) {
    for (const ValueId value : graph_.node(id).outputs) {
      if (stays(value)) {
        for (const NodeId reader : readers_[value]) {
          if (nodes.count(reader) == 0 && reader < place) return false;
        }
        continue;
      }
      if (is_output_[value]) return false;
      for (const NodeId reader : readers_[value]) {
        if (nodes.count(reader) == 0) return false;
      }
      for (const ValueId sized : sized_[value]) {
        const NodeId maker = graph_.value(sized).producer;
        if (nodes.count(maker) == 0 || stays(sized)) return false;
      }
    }
    for (NodeId other = first + 1; other < place; ++other) {
      if (nodes.count(other) > 0) continue;
      for (const int i : graph_.node(other).mutates) {
        if (absl::c_linear_search(graph_.node(id).inputs,
                                  graph_.node(other).inputs[i])) {
          return false;
        }
      }
    }
    for (const int i : graph_.node(id).mutates) {
      for (const NodeId reader : readers_[graph_.node(id).inputs[i]]) {
        if (nodes.count(reader) == 0 && reader > first && reader < place) {
          return false;
        }
      }
    }
  }
  return true;
}

bool Rewriter::Fits(const Fusion& fusion, std::vector<ValueType>& types) const {
  const auto inferred =
      fusion.op->infer({work_, fusion.inputs, {}, fusion.attrs});
  if (!inferred.ok() || inferred->size() != fusion.outputs.size()) return false;
  types = *inferred;
  for (size_t i = 0; i < types.size(); ++i) {
    if (fusion.outputs[i] == kNone) continue;
    if (!SameType(types[i], graph_.value(fusion.outputs[i]).type)) return false;
  }
  return has_kernel_(*fusion.op, SelectingDType(work_, fusion.inputs, types));
}

bool Rewriter::Replace(const Fusion& fusion) {
  CHECK(!fusion.nodes.empty());
  NodeId place = 0, first = IdOf(*fusion.nodes[0]);
  for (const Node* node : fusion.nodes) {
    place = std::max(place, IdOf(*node));
    first = std::min(first, IdOf(*node));
  }
  if (stays_) {
    std::vector<const Value*> inputs;
    for (const ValueId input : fusion.inputs) {
      inputs.push_back(input == kNone ? nullptr : &work_.value(input));
    }
    if (stays_(*fusion.op, inputs)) return false;
  }
  std::vector<ValueType> types;
  if (!Allowed(fusion, place) || !Fits(fusion, types)) return false;

  Node node;
  node.op = fusion.op;
  node.attrs = fusion.attrs;
  node.inputs.assign(fusion.inputs.begin(), fusion.inputs.end());
  node.mutates.assign(fusion.op->mutates.begin(), fusion.op->mutates.end());
  node.scope = graph_.node(first).scope;
  std::vector<ValueId> outputs = fusion.outputs;
  for (size_t i = 0; i < outputs.size(); ++i) {
    if (outputs[i] != kNone) continue;
    Value value;
    value.type = types[i];
    outputs[i] = work_.AddValue(value);
  }
  // A count of -2 - k is output k of the node (core/graph/builder.h).
  for (size_t i = 0; i < outputs.size(); ++i) {
    if (fusion.outputs[i] != kNone) continue;
    for (Dim& dim : types[i].dims) {
      if (dim.count < kNone) dim.count = outputs[-2 - dim.count];
    }
    new_types_[outputs[i]] = types[i];
  }
  node.outputs.assign(outputs.begin(), outputs.end());
  for (const Node* gone : fusion.nodes) gone_[IdOf(*gone)] = true;
  for (auto& [key, shared] : shared_) {
    for (const ValueId value : shared.node.outputs) {
      if (absl::c_linear_search(fusion.inputs, value)) {
        shared.before = shared.used ? std::min(shared.before, first) : first;
        shared.used = true;
      }
    }
  }
  at_[place] = std::move(node);
  return true;
}

std::vector<ValueId> Rewriter::Shared(const OpDef& op, const Attrs& attrs,
                                      std::vector<ValueId> inputs) {
  for (const ValueId input : inputs) {
    if (input != kNone && graph_.value(input).producer != kNone) return {};
  }
  const std::string key = absl::StrCat(op.name, " ", absl::StrJoin(inputs, " "),
                                       " ", attrs.ToString());
  SharedNode& shared = shared_[key];
  Node& node = shared.node;
  if (node.op == nullptr) {
    node.op = &op;
    node.attrs = attrs;
    node.inputs.assign(inputs.begin(), inputs.end());
    const auto types = op.infer({work_, node.inputs, {}, attrs});
    if (!types.ok() ||
        !has_kernel_(op, SelectingDType(work_, node.inputs, *types))) {
      shared_.erase(key);
      return {};
    }
    for (const ValueType& type : *types) {
      Value value;
      value.type = type;
      node.outputs.push_back(work_.AddValue(value));
      new_types_[node.outputs.back()] = type;
    }
  }
  return {node.outputs.begin(), node.outputs.end()};
}

Graph Rewriter::Finish() const {
  if (at_.empty()) return graph_;
  Graph result;
  std::vector<ValueId> moved(work_.values().size(), kNone);
  for (size_t id = 0; id < graph_.values().size(); ++id) {
    if (graph_.value(id).producer != kNone) continue;
    Value value = graph_.value(id);
    for (Dim& dim : value.type.dims) {
      if (dim.ragged()) dim.count = moved[dim.count];
    }
    moved[id] = result.AddValue(std::move(value));
  }
  const auto add = [&](Node node) {
    for (ValueId& input : node.inputs) {
      if (input != kNone) input = moved[input];
    }
    // Values of a node may be counted by another of them.
    auto next = static_cast<ValueId>(result.values().size());
    for (const ValueId output : node.outputs) moved[output] = next++;
    for (ValueId& output : node.outputs) {
      Value value = work_.value(output);
      const auto it = new_types_.find(output);
      if (it != new_types_.end()) value.type = it->second;
      for (Dim& dim : value.type.dims) {
        if (dim.ragged()) dim.count = moved[dim.count];
      }
      output = result.AddValue(std::move(value));
    }
    result.AddNode(std::move(node));
  };
  for (size_t id = 0; id < graph_.nodes().size(); ++id) {
    const auto place = static_cast<NodeId>(id);
    for (const auto& [key, shared] : shared_) {
      if (shared.used && shared.before == place) add(shared.node);
    }
    if (const auto it = at_.find(place); it != at_.end()) {
      add(it->second);
    } else if (!gone_[id]) {
      add(graph_.node(id));
    }
  }
  for (const auto& [name, value] : graph_.outputs()) {
    result.SetOutput(name, moved[value]);
  }
  return result;
}

}  // namespace strata
