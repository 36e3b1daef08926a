// What a pass that reorders nodes has to keep.

#ifndef CORE_PASSES_NODES_BEFORE_H_
#define CORE_PASSES_NODES_BEFORE_H_

#include <set>
#include <vector>

#include "absl/functional/function_ref.h"
#include "core/graph/graph.h"

namespace strata {

// Which nodes must come before each: those that make what it reads, or what
// sizes that; of those that use a value which one changes in place, and of the
// calls of a group of ranks, the ones before it. Not what follows from these.
std::vector<std::set<NodeId>> NodesBefore(const Graph& graph);

// `graph` with its nodes in `order` [nodes], each as `change` leaves it; values
// keep their numbers.
Graph InOrder(
    const Graph& graph, const std::vector<NodeId>& order,
    absl::FunctionRef<void(Node&)> change = [](Node&) {});

}  // namespace strata

#endif  // CORE_PASSES_NODES_BEFORE_H_
