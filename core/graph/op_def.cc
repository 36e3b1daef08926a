#include "core/graph/op_def.h"

#include "core/graph/graph.h"

namespace strata {

double Elements(const ValueType& type, const Binding& binding) {
  double product = 1;
  for (const Dim& dim : type.dims) product *= Extent(dim, binding);
  return product;
}

double Bytes(const ValueType& type, const Binding& binding) {
  return Elements(type, binding) * SizeOf(type.dtype);
}

Cost CostOf(const Graph& graph, const Node& node, const Binding& binding) {
  const OpView op{graph, node.inputs, node.outputs, node.attrs};
  Cost cost;
  if (node.op->flops != nullptr) cost.flops = node.op->flops(op, binding);
  for (const ValueId input : node.inputs) {
    if (input != kNone) {
      cost.bytes_read += Bytes(graph.value(input).type, binding);
    }
  }
  for (const ValueId output : node.outputs) {
    cost.bytes_written += Bytes(graph.value(output).type, binding);
  }
  for (const int i : node.mutates) {
    cost.bytes_written += Bytes(graph.value(node.inputs[i]).type, binding);
  }
  if (node.op->bytes != nullptr) node.op->bytes(op, binding, cost);
  return cost;
}

namespace {

template <typename Keep>
Cost Sum(const Graph& graph, const Binding& binding, Keep keep) {
  Cost sum;
  for (const Node& node : graph.nodes()) {
    if (!keep(node)) continue;
    const Cost cost = CostOf(graph, node, binding);
    sum.flops += cost.flops;
    sum.bytes_read += cost.bytes_read;
    sum.bytes_written += cost.bytes_written;
    sum.bytes_on_wire += cost.bytes_on_wire;
  }
  return sum;
}

}  // namespace

Cost CostOf(const Graph& graph, const Binding& binding) {
  return Sum(graph, binding, [](const Node&) { return true; });
}

Cost CostOf(const Graph& graph, Phase phase, const Binding& binding) {
  return Sum(graph, binding,
             [phase](const Node& node) { return node.phase == phase; });
}

}  // namespace strata
