// Sums of rows made where one of their terms is stored.
//
//   y = CombineRows(rows, ...)          h' = CombineRows(rows, ..., h)
//   h' = Add(h, y)
//
//   g = RmsNormInputGrad(dy, ...)       dh' = RmsNormInputGrad(dy, ..., dh)
//   dh' = Add(dh, g)
//
// The term is written and read once less, and the Add's launch is gone. Who
// takes what, in this order, so that bits stay those of the operators before:
//
//   CombineRows        (result + a) + b
//   RmsNormInputGrad   result + a; where an Add makes a that nothing else
//                      reads, result + (b + c)
//   FedNormInputGrad   core/ops/fed_norm.h, one to each result: there the sum
//                      comes before the difference, as with separate norms
//
// Of both terms the one made last takes the other; if it cannot, the one made
// first does, in the Add's place, which keeps what it reads until then.

#ifndef CORE_PASSES_ADD_IN_STORES_H_
#define CORE_PASSES_ADD_IN_STORES_H_

#include <vector>

#include "core/graph/graph.h"

namespace strata {

struct AddedInStores {
  Graph graph;
  std::vector<ValueId> value;  // Of the graph before: where it is; or kNone.
};

// `gradients` is the gradient graph of a step (training/step_graph.h), before
// its rows are narrowed (core/passes/bf16_training.h). An Add stays whose terms
// are read elsewhere, are outputs, belong to another phase or come from other
// operators. For backends whose kernels of these operators take what they add.
AddedInStores AddInStores(const Graph& gradients);

}  // namespace strata

#endif  // CORE_PASSES_ADD_IN_STORES_H_
