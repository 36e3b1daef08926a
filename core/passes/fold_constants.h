// Takes out of a graph what no input enters: nodes that read only parameters,
// and what such nodes make. A tier's gate has much of it, self-attention among
// its experts (core/model/gate.h); for one token that is most of what the gate
// costs.
//
//   parameters --constants--> state --rest--> outputs
//                                     ^ inputs

#ifndef CORE_PASSES_FOLD_CONSTANTS_H_
#define CORE_PASSES_FOLD_CONSTANTS_H_

#include "core/graph/graph.h"

namespace strata {

struct FoldedGraph {
  Graph constants;  // Its outputs are what `rest` reads; no nodes: nothing is.
  Graph rest;       // Has them as state of the same names.
};

// Names follow from scopes and operators, so that a graph has the same ones
// each time, and other graphs of one store others. Nodes that update anything,
// make integers or outputs of the graph stay in `rest`, as do all of a graph
// that updates its parameters.
FoldedGraph FoldConstants(const Graph& graph);

}  // namespace strata

#endif  // CORE_PASSES_FOLD_CONSTANTS_H_
