// The builder: adds values and nodes to a graph, inferring types as it goes.
//
//   GraphBuilder b(DType::kF32);
//   const ValueId x = b.Input("x", DType::kF32, {Static(4), Static(8)});
//   const ValueId w = b.Parameter("w", {Static(16), Static(8)});
//   b.Output("y", MatMul(b, x, w));
//   ASSIGN_OR_RETURN(Graph graph, b.Finish());
//
// The first error sticks: later calls do nothing and return kNone, and Finish()
// returns it. So the code that builds a model reads like the model.

#ifndef CORE_GRAPH_BUILDER_H_
#define CORE_GRAPH_BUILDER_H_

#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "core/graph/graph.h"
#include "core/graph/op_def.h"

namespace strata {

class GraphBuilder {
 public:
  // `compute` is the dtype of activations: F32, or F64 in equality tests.
  explicit GraphBuilder(DType compute = DType::kF32) : compute_(compute) {}
  // Goes on with a finished graph, as autodiff does.
  explicit GraphBuilder(Graph graph, DType compute = DType::kF32)
      : graph_(std::move(graph)), compute_(compute) {}

  ValueId Input(absl::string_view name, DType dtype, Dims dims);
  ValueId Parameter(absl::string_view name, Dims dims);  // Of compute dtype.
  ValueId State(absl::string_view name, DType dtype, Dims dims);
  void Output(absl::string_view name, ValueId value);

  // Adds a node; returns its outputs. kNone among `inputs` is an optional
  // input that is absent.
  std::vector<ValueId> Add(const OpDef& op, absl::Span<const ValueId> inputs,
                           Attrs attrs = {});
  // The same, for an operator with one output.
  ValueId Add1(const OpDef& op, absl::Span<const ValueId> inputs,
               Attrs attrs = {});

  const ValueType& type(ValueId value) const;
  const Graph& graph() const { return graph_; }
  DType compute() const { return compute_; }
  const absl::Status& status() const { return status_; }
  bool ok() const { return status_.ok(); }
  void Fail(absl::Status status);

  // Names and phases of the nodes to come.
  class Scope {
   public:
    Scope(GraphBuilder& builder, absl::string_view name);
    ~Scope();
    Scope(const Scope&) = delete;
    Scope& operator=(const Scope&) = delete;

   private:
    GraphBuilder& builder_;
    size_t length_;
  };
  const std::string& scope() const { return scope_; }
  void set_scope(std::string scope) { scope_ = std::move(scope); }
  // "layers.0.attention" + "wq" -> "layers.0.attention.wq"
  std::string Scoped(absl::string_view name) const;
  Phase phase() const { return phase_; }
  void set_phase(Phase phase) { phase_ = phase; }

  // Verifies and hands over the graph.
  absl::StatusOr<Graph> Finish();

 private:
  ValueId AddSource(absl::string_view name, Role role, DType dtype, Dims dims);

  Graph graph_;
  DType compute_;
  absl::Status status_;
  std::string scope_;
  Phase phase_ = Phase::kForward;
};

// What an operator's gradient function sees: the node, the gradients of its
// outputs, and a builder to emit into.
//
//   void MatMulGradient(GradContext& g) {
//     const ValueId dy = g.OutputGrad(0);
//     if (g.Needs(0)) g.Set(0, MatMul(g.For(0), dy, g.input(1), ...));
//     if (g.Needs(1)) g.Set(1, MatMul(g.For(1), dy, g.input(0), ...));
//   }
class GradContext {
 public:
  GradContext(GraphBuilder& builder, const Node& node,
              absl::Span<const ValueId> output_grads,
              std::vector<bool> needs_grad);

  const Node& node() const { return node_; }
  const Attrs& attrs() const { return node_.attrs; }
  ValueId input(int i) const { return node_.inputs[i]; }
  ValueId output(int i) const { return node_.outputs[i]; }
  bool Has(int i) const {
    return i < static_cast<int>(node_.inputs.size()) && input(i) != kNone;
  }

  // The gradient of the loss by output `i`; kNone if the loss does not depend
  // on it. A gradient function runs only if at least one output has one.
  ValueId OutputGrad(int i) const { return output_grads_[i]; }
  // Whether the loss's gradient by input `i` is wanted.
  bool Needs(int i) const { return needs_grad_[i]; }
  // The builder, set to the phase that input `i`'s gradient belongs to: weight
  // gradient if it is a parameter, input gradient otherwise.
  GraphBuilder& For(int i);
  // The builder, set to the input-gradient phase, for what both share.
  GraphBuilder& Shared();
  void Set(int i, ValueId grad) { input_grads_[i] = grad; }

  const std::vector<ValueId>& input_grads() const { return input_grads_; }

 private:
  GraphBuilder& builder_;
  const Node node_;  // A copy: the builder's nodes move as it grows.
  std::vector<ValueId> output_grads_;
  std::vector<bool> needs_grad_;
  std::vector<ValueId> input_grads_;
};

}  // namespace strata

#endif  // CORE_GRAPH_BUILDER_H_
