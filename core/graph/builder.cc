#include "core/graph/builder.h"

#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "core/base/check.h"
#include "core/base/status_macros.h"
#include "core/graph/graph.h"
#include "core/graph/op_def.h"

namespace strata {

void GraphBuilder::Fail(absl::Status status) {
  if (status_.ok()) status_ = std::move(status);
}

ValueId GraphBuilder::AddSource(absl::string_view name, Role role, DType dtype,
                                Dims dims) {
  if (!ok()) return kNone;
  if (graph_.FindSource(name) != kNone) {
    Fail(absl::InvalidArgumentError(
        absl::StrCat("two values are called ", name)));
    return kNone;
  }
  Value value;
  value.name = std::string(name);
  value.type = {dtype, std::move(dims)};
  value.role = role;
  return graph_.AddValue(std::move(value));
}

ValueId GraphBuilder::Input(absl::string_view name, DType dtype, Dims dims) {
  return AddSource(name, Role::kInput, dtype, std::move(dims));
}

ValueId GraphBuilder::Parameter(absl::string_view name, Dims dims) {
  return AddSource(name, Role::kParameter, compute_, std::move(dims));
}

ValueId GraphBuilder::State(absl::string_view name, DType dtype, Dims dims) {
  return AddSource(name, Role::kState, dtype, std::move(dims));
}

void GraphBuilder::Output(absl::string_view name, ValueId value) {
  if (ok()) graph_.SetOutput(name, value);
}

std::vector<ValueId> GraphBuilder::Add(const OpDef& op,
                                       absl::Span<const ValueId> inputs,
                                       Attrs attrs) {
  // Callers unpack a fixed number of outputs; after an error they get kNone.
  static constexpr int kMaxOutputs = 8;
  if (!ok()) return std::vector<ValueId>(kMaxOutputs, kNone);

  auto types = op.infer({graph_, inputs, {}, attrs});
  if (!types.ok()) {
    Fail(absl::Status(types.status().code(),
                      absl::StrCat(scope_, scope_.empty() ? "" : ": ", op.name,
                                   ": ", types.status().message())));
    return std::vector<ValueId>(kMaxOutputs, kNone);
  }

  Node node;
  node.op = &op;
  node.attrs = std::move(attrs);
  node.inputs.assign(inputs.begin(), inputs.end());
  for (const int input : op.mutates) {
    if (input < static_cast<int>(inputs.size())) node.mutates.push_back(input);
  }
  node.phase = phase_;
  node.scope = scope_;
  // An operator whose output is ragged by a count that it makes itself says so
  // with a count of -2 - k: output k of this node.
  const auto first = static_cast<ValueId>(graph_.values().size());
  for (size_t i = 0; i < types->size(); ++i) {
    ValueType& type = (*types)[i];
    for (Dim& dim : type.dims) {
      if (dim.count < kNone) dim.count = first + (-2 - dim.count);
    }
    Value value;
    value.type = std::move(type);
    node.outputs.push_back(graph_.AddValue(std::move(value)));
  }
  std::vector<ValueId> outputs(node.outputs.begin(), node.outputs.end());
  graph_.AddNode(std::move(node));
  return outputs;
}

ValueId GraphBuilder::Add1(const OpDef& op, absl::Span<const ValueId> inputs,
                           Attrs attrs) {
  return Add(op, inputs, std::move(attrs))[0];
}

const ValueType& GraphBuilder::type(ValueId value) const {
  static const auto* const none = new ValueType();
  return value == kNone ? *none : graph_.value(value).type;
}

std::string GraphBuilder::Scoped(absl::string_view name) const {
  return scope_.empty() ? std::string(name) : absl::StrCat(scope_, ".", name);
}

GraphBuilder::Scope::Scope(GraphBuilder& builder, absl::string_view name)
    : builder_(builder), length_(builder.scope_.size()) {
  builder.scope_ = builder.Scoped(name);
}

GraphBuilder::Scope::~Scope() { builder_.scope_.resize(length_); }

absl::StatusOr<Graph> GraphBuilder::Finish() {
  RETURN_IF_ERROR(status_);
  RETURN_IF_ERROR(Verify(graph_));
  return std::move(graph_);
}

GradContext::GradContext(GraphBuilder& builder, const Node& node,
                         absl::Span<const ValueId> output_grads,
                         std::vector<bool> needs_grad)
    : builder_(builder),
      node_(node),
      output_grads_(output_grads.begin(), output_grads.end()),
      needs_grad_(std::move(needs_grad)),
      input_grads_(node.inputs.size(), kNone) {}

GraphBuilder& GradContext::For(int i) {
  const bool is_parameter =
      builder_.graph().value(node_.inputs[i]).role == Role::kParameter;
  builder_.set_phase(is_parameter ? Phase::kWeightGrad : Phase::kInputGrad);
  return builder_;
}

GraphBuilder& GradContext::Shared() {
  builder_.set_phase(Phase::kInputGrad);
  return builder_;
}

}  // namespace strata
