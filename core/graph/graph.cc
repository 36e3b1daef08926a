#include "core/graph/graph.h"

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/string_view.h"
#include "core/graph/op_def.h"

namespace strata {

int64_t ValueType::max_elements() const {
  int64_t product = 1;
  for (const Dim& dim : dims) product *= dim.bound;
  return product;
}

int64_t ValueType::max_bytes() const { return max_elements() * SizeOf(dtype); }

absl::string_view Name(Phase phase) {
  switch (phase) {
    case Phase::kForward:
      return "forward";
    case Phase::kInputGrad:
      return "input-grad";
    case Phase::kWeightGrad:
      return "weight-grad";
    case Phase::kUpdate:
      return "update";
  }
  return "?";
}

absl::string_view Name(Role role) {
  switch (role) {
    case Role::kInput:
      return "input";
    case Role::kParameter:
      return "parameter";
    case Role::kState:
      return "state";
    case Role::kActivation:
      return "activation";
  }
  return "?";
}

ValueId Graph::FindSource(absl::string_view name) const {
  const auto it = sources_.find(name);
  return it == sources_.end() ? kNone : it->second;
}

ValueId Graph::AddValue(Value value) {
  const auto id = static_cast<ValueId>(values_.size());
  if (value.role != Role::kActivation) sources_[value.name] = id;
  values_.push_back(std::move(value));
  return id;
}

NodeId Graph::AddNode(Node node) {
  const auto id = static_cast<NodeId>(nodes_.size());
  for (const ValueId output : node.outputs) values_[output].producer = id;
  nodes_.push_back(std::move(node));
  return id;
}

void Graph::SetOutput(absl::string_view name, ValueId value) {
  outputs_[std::string(name)] = value;
}

std::vector<ValueId> CopyValues(const std::vector<Value>& values,
                                const std::vector<bool>& is_there, Graph& to) {
  std::vector<ValueId> copy(values.size(), kNone);
  auto next = static_cast<ValueId>(to.values().size());
  for (size_t id = 0; id < values.size(); ++id) {
    if (is_there[id]) copy[id] = next++;
  }
  for (size_t id = 0; id < values.size(); ++id) {
    if (!is_there[id]) continue;
    Value value = values[id];
    value.producer = kNone;
    for (Dim& dim : value.type.dims) {
      if (dim.ragged()) dim.count = copy[dim.count];
    }
    to.AddValue(std::move(value));
  }
  return copy;
}

namespace {

// "%12 (layers.0.attention/MatMul)" or the name of a source.
std::string Describe(const Graph& graph, ValueId id) {
  const Value& value = graph.value(id);
  if (!value.name.empty()) return value.name;
  if (value.producer == kNone) return absl::StrCat("%", id);
  const Node& node = graph.node(value.producer);
  return absl::StrCat("%", id, " (", node.scope, "/", node.op->name, ")");
}

absl::Status VerifyType(const Graph& graph, ValueId id,
                        const std::vector<bool>& made) {
  const ValueType& type = graph.value(id).type;
  for (int axis = 0; axis < type.rank(); ++axis) {
    const Dim& dim = type.dims[axis];
    if (dim.bound < 0) {
      return absl::InternalError(absl::StrFormat(
          "axis %d of %s is %d", axis, Describe(graph, id), dim.bound));
    }
    if (!dim.ragged()) continue;
    const ValueType& count = graph.value(dim.count).type;
    if (axis != 0 || count.dtype != DType::kI32 || count.rank() != 0 ||
        !made[dim.count]) {
      return absl::InternalError(absl::StrFormat(
          "axis %d of %s is sized by %s, which is not an I32 "
          "scalar made before it",
          axis, Describe(graph, id), Describe(graph, dim.count)));
    }
  }
  return absl::OkStatus();
}

}  // namespace

absl::Status Verify(const Graph& graph) {
  std::vector<bool> made(graph.values().size(), false);
  for (size_t id = 0; id < made.size(); ++id) {
    made[id] = graph.value(id).producer == kNone;
  }
  for (const Node& node : graph.nodes()) {
    for (const ValueId input : node.inputs) {
      if (input == kNone) continue;
      if (!made[input]) {
        return absl::InternalError(
            absl::StrCat(node.scope, "/", node.op->name, " reads ",
                         Describe(graph, input), " before it is made"));
      }
      const NodeId producer = graph.value(input).producer;
      if (producer != kNone && node.phase == Phase::kInputGrad &&
          graph.node(producer).phase == Phase::kWeightGrad) {
        return absl::InternalError(absl::StrCat(
            node.scope, "/", node.op->name,
            " is an input gradient, yet reads the weight gradient ",
            Describe(graph, input)));
      }
    }
    for (const int i : node.mutates) {
      const Role role = graph.value(node.inputs[i]).role;
      if (role != Role::kState && role != Role::kParameter) {
        return absl::InternalError(absl::StrCat(
            node.scope, "/", node.op->name, " would update ",
            Describe(graph, node.inputs[i]), " in place, which is no state"));
      }
    }
    for (const ValueId output : node.outputs) {
      if (made[output]) {
        return absl::InternalError(
            absl::StrCat(Describe(graph, output), " is made twice"));
      }
      made[output] = true;
    }
    for (const ValueId output : node.outputs) {
      if (absl::Status s = VerifyType(graph, output, made); !s.ok()) return s;
    }
  }
  return absl::OkStatus();
}

int64_t CountElements(const Graph& graph, Role role) {
  int64_t sum = 0;
  for (const Value& value : graph.values()) {
    if (value.role == role) sum += value.type.max_elements();
  }
  return sum;
}

std::string ToText(const Graph& graph, const ValueType& type) {
  std::string text = absl::StrCat(Name(type.dtype), "[");
  for (int axis = 0; axis < type.rank(); ++axis) {
    const Dim& dim = type.dims[axis];
    if (axis > 0) absl::StrAppend(&text, ", ");
    if (dim.ragged()) {
      const std::string& name = graph.value(dim.count).name;
      absl::StrAppend(&text, name.empty() ? absl::StrCat("%", dim.count) : name,
                      "<=");
    }
    absl::StrAppend(&text, dim.bound);
  }
  return absl::StrCat(text, "]");
}

std::string ToText(const Node& node) {
  return absl::StrCat(node.scope, node.scope.empty() ? "" : "/", node.op->name);
}

std::string ToText(const Graph& graph) {
  const auto name = [&](ValueId id) {
    if (id == kNone) return std::string("-");
    const Value& value = graph.value(id);
    return value.name.empty() ? absl::StrCat("%", id) : value.name;
  };
  std::string text;
  for (const Value& value : graph.values()) {
    if (value.role == Role::kActivation) continue;
    absl::StrAppend(&text, Name(value.role), " ", value.name, ": ",
                    ToText(graph, value.type), "\n");
  }
  for (const Node& node : graph.nodes()) {
    for (size_t i = 0; i < node.outputs.size(); ++i) {
      absl::StrAppend(&text, i == 0 ? "" : ", ", name(node.outputs[i]), ": ",
                      ToText(graph, graph.value(node.outputs[i]).type));
    }
    absl::StrAppend(&text, node.outputs.empty() ? "" : " = ", node.op->name,
                    "(");
    for (size_t i = 0; i < node.inputs.size(); ++i) {
      absl::StrAppend(&text, i == 0 ? "" : ", ", name(node.inputs[i]));
    }
    const std::string attrs = node.attrs.ToString();
    absl::StrAppend(&text, ")", attrs.empty() ? "" : " {", attrs,
                    attrs.empty() ? "" : "}");
    if (node.phase != Phase::kForward) {
      absl::StrAppend(&text, " ", Name(node.phase));
    }
    absl::StrAppend(&text, node.scope.empty() ? "" : "  # ", node.scope, "\n");
  }
  return text;
}

}  // namespace strata
