// Parameters as they are stored: F32 in the graph that a model builder emits,
// BF16 where a state store holds them so.
//
//   graph   w: parameter F32[n, k]         store   w: BF16[n, k]
//        --NarrowWeights(graph, {"w"})-->
//   graph   w: parameter BF16[n, k]        all activations as before
//
// An operator takes a narrow weight if its own inference says that its results
// stay what they were: products by a layer's weight, rows of a table.

#ifndef CORE_PASSES_NARROW_WEIGHTS_H_
#define CORE_PASSES_NARROW_WEIGHTS_H_

#include <set>
#include <string>
#include <vector>

#include "core/graph/graph.h"

namespace strata {

// An operator that reads an F32 parameter and does not take it in BF16.
struct NarrowRefusal {
  NodeId node = kNone;
  ValueId weight = kNone;
};
std::vector<NarrowRefusal> NarrowRefusals(const Graph& graph);

// The F32 parameters of `graph` all of whose readers take them in BF16. Those
// that no node reads are not among them.
std::set<std::string> NarrowableWeights(const Graph& graph);

// `graph` with the parameters `names`, all narrowable, in BF16.
Graph NarrowWeights(const Graph& graph, const std::set<std::string>& names);

}  // namespace strata

#endif  // CORE_PASSES_NARROW_WEIGHTS_H_
