#include "core/passes/autodiff.h"

#include <string>
#include <utility>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "absl/types/span.h"
#include "core/base/status_macros.h"
#include "core/graph/builder.h"
#include "core/graph/graph.h"
#include "core/graph/op_def.h"
#include "core/ops/elementwise.h"

namespace strata {
namespace {

// For each value, whether it depends on one of `wrt`.
std::vector<bool> DependsOn(const Graph& graph, absl::Span<const ValueId> wrt) {
  std::vector<bool> depends(graph.values().size(), false);
  for (const ValueId id : wrt) depends[id] = true;
  for (const Node& node : graph.nodes()) {
    bool any = false;
    for (const ValueId in : node.inputs) any |= in != kNone && depends[in];
    // Integers (choices, counts) carry no gradient.
    for (const ValueId out : node.outputs) {
      depends[out] = any && IsFloat(graph.value(out).type.dtype);
    }
  }
  return depends;
}

class Backward {
 public:
  Backward(GraphBuilder& builder, absl::Span<const ValueId> wrt)
      : builder_(builder), depends_(DependsOn(builder.graph(), wrt)) {}

  void Contribute(ValueId value, ValueId grad) {
    const auto [it, is_first] = sum_.try_emplace(value, grad);
    if (is_first) return;
    const bool is_parameter =
        builder_.graph().value(value).role == Role::kParameter;
    builder_.set_phase(is_parameter ? Phase::kWeightGrad : Phase::kInputGrad);
    it->second = Add(builder_, it->second, grad);
  }

  // The gradient by `value` so far; kNone without any.
  ValueId Sum(ValueId value) const {
    const auto it = sum_.find(value);
    return it == sum_.end() ? kNone : it->second;
  }

  absl::Status Visit(NodeId id) {
    const Node node = builder_.graph().node(id);  // A copy: the graph grows.
    std::vector<bool> needs(node.inputs.size());
    bool any_needed = false;
    for (size_t i = 0; i < needs.size(); ++i) {
      needs[i] = node.inputs[i] != kNone && depends_[node.inputs[i]];
      any_needed |= needs[i];
    }
    if (!any_needed) return absl::OkStatus();

    builder_.set_scope(node.scope);
    std::vector<ValueId> grads;
    bool any_grad = false;
    for (const ValueId output : node.outputs) {
      grads.push_back(Sum(output));
      any_grad |= grads.back() != kNone;
    }
    if (!any_grad) return absl::OkStatus();
    if (node.op->gradient == nullptr) {
      return absl::FailedPreconditionError(
          absl::StrCat(node.scope, "/", node.op->name,
                       " has no gradient, yet the loss "
                       "depends on a parameter through it"));
    }

    GradContext context(builder_, node, grads, needs);
    node.op->gradient(context);
    for (size_t i = 0; i < needs.size(); ++i) {
      const ValueId grad = context.input_grads()[i];
      if (needs[i] && grad != kNone) Contribute(node.inputs[i], grad);
    }
    return builder_.status();
  }

 private:
  GraphBuilder& builder_;
  std::vector<bool> depends_;
  absl::flat_hash_map<ValueId, ValueId> sum_;  // Of contributions so far.
};

// The values of `wrt` by the first node that reads each; those that no node
// reads, behind the last. Past that, going backward, nothing more is added to
// the gradient.
std::vector<std::vector<ValueId>> ByFirstReader(const Graph& graph,
                                                absl::Span<const ValueId> wrt) {
  const auto num_nodes = static_cast<NodeId>(graph.nodes().size());
  std::vector<NodeId> first(graph.values().size(), num_nodes);
  for (NodeId id = num_nodes - 1; id >= 0; --id) {
    for (const ValueId in : graph.node(id).inputs) {
      if (in != kNone) first[in] = id;
    }
  }
  std::vector<std::vector<ValueId>> by_reader(num_nodes + 1);
  for (const ValueId id : wrt) by_reader[first[id]].push_back(id);
  return by_reader;
}

}  // namespace

absl::StatusOr<Gradients> Differentiate(GraphBuilder& builder,
                                        absl::Span<const Seed> seeds,
                                        absl::Span<const ValueId> wrt) {
  return Differentiate(builder, seeds, wrt, [](ValueId, ValueId) {});
}

absl::StatusOr<Gradients> Differentiate(
    GraphBuilder& builder, absl::Span<const Seed> seeds,
    absl::Span<const ValueId> wrt,
    absl::FunctionRef<void(ValueId value, ValueId grad)> on_gradient) {
  RETURN_IF_ERROR(builder.status());
  const Phase phase = builder.phase();
  const std::string scope = builder.scope();
  Backward backward(builder, wrt);
  for (const Seed& seed : seeds) backward.Contribute(seed.value, seed.grad);

  const auto num_nodes = static_cast<NodeId>(builder.graph().nodes().size());
  const std::vector<std::vector<ValueId>> whole_after =
      ByFirstReader(builder.graph(), wrt);
  Gradients gradients;
  for (NodeId id = num_nodes; id >= 0; --id) {
    if (id < num_nodes) RETURN_IF_ERROR(backward.Visit(id));
    for (const ValueId value : whole_after[id]) {
      const ValueId grad = backward.Sum(value);
      if (grad == kNone) continue;
      gradients[value] = grad;
      on_gradient(value, grad);
    }
  }
  builder.set_phase(phase);
  builder.set_scope(scope);
  RETURN_IF_ERROR(builder.status());
  return gradients;
}

}  // namespace strata
