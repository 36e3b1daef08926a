// An operator: its name and what the readers of a graph need to know of it.
//
// core/ops defines each operator once as a constant OpDef; how it runs is the
// business of a backend, which registers kernels by (name, dtype).

#ifndef CORE_GRAPH_OP_DEF_H_
#define CORE_GRAPH_OP_DEF_H_

#include <cstdint>
#include <functional>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "core/graph/graph.h"

namespace strata {

class GradContext;  // core/graph/builder.h

// The view of a node that shape inference and cost see.
struct OpView {
  const Graph& graph;
  absl::Span<const ValueId> inputs;
  absl::Span<const ValueId> outputs;  // Empty during inference.
  const Attrs& attrs;

  bool has(int input) const {
    return input < static_cast<int>(inputs.size()) && inputs[input] != kNone;
  }
  const ValueType& type(int input) const {
    return graph.value(inputs[input]).type;
  }
  const ValueType& output_type(int output) const {
    return graph.value(outputs[output]).type;
  }
};

// What one run of a node costs.
struct Cost {
  double flops = 0;
  double bytes_read = 0;
  double bytes_written = 0;
  double bytes_on_wire = 0;
};

// How many there are of a ragged extent: from a trace, from live counters, or
// from an expectation. Returns the bound where nothing better is known.
using Binding = std::function<double(ValueId count, int64_t bound)>;

// The extent of `dim` under `binding`; a default-constructed binding means
// bounds.
inline double Extent(const Dim& dim, const Binding& binding) {
  if (!dim.ragged() || !binding) return static_cast<double>(dim.bound);
  return binding(dim.count, dim.bound);
}
double Elements(const ValueType& type, const Binding& binding);
double Bytes(const ValueType& type, const Binding& binding);

struct OpDef {
  absl::string_view name;

  // Types of the outputs, or INVALID_ARGUMENT that names what does not fit.
  absl::StatusOr<std::vector<ValueType>> (*infer)(const OpView& op);

  // Emits the nodes of the gradient; null where there is none (integer
  // results, updates of state).
  void (*gradient)(GradContext& context);

  // FLOPs of the arithmetic that defines the operator (a multiply and an add
  // count as two). Bytes are filled in by CostOf() as each operand read once
  // and each result written once, unless the operator says otherwise.
  double (*flops)(const OpView& op, const Binding& binding);

  // Inputs that are updated in place, as indexes; of an operator of any number
  // of inputs as many as it may have.
  std::vector<int> mutates = {};

  // Bytes, where "each operand once" is wrong (a gather reads only some rows);
  // null otherwise.
  void (*bytes)(const OpView& op, const Binding& binding, Cost& cost) = nullptr;
};

// The cost of a node under `binding`.
Cost CostOf(const Graph& graph, const Node& node, const Binding& binding);

// The sum over all nodes, or over those of one phase.
Cost CostOf(const Graph& graph, const Binding& binding);
Cost CostOf(const Graph& graph, Phase phase, const Binding& binding);

}  // namespace strata

#endif  // CORE_GRAPH_OP_DEF_H_
