// Two graphs over the same state as one, so that each one's work can stand
// beside the other's exchanges (core/passes/hide_exchanges.h).
//
//   first    gate, send, experts, return, combine
//   second   dcombine, send, dexperts, return, dgate, weight gradients
//     |
//     |  values apart, but for parameters and states; names with a prefix
//     v
//   joined   gate, send | dcombine, send' | experts, return | dexperts, return'
//            | dgate | combine | weight gradients
//
// Pieces that end with an exchange of rows take turns, in proportion where one
// graph has fewer of them. Last, of either, stands what no call of a group of
// ranks waits for: work for whenever all else waits. Each graph's data flows as
// it did, so its results are the same bits. Memory is that of both at once.

#ifndef CORE_PASSES_JOIN_GRAPHS_H_
#define CORE_PASSES_JOIN_GRAPHS_H_

#include <string>

#include "absl/status/statusor.h"
#include "core/graph/graph.h"

namespace strata {

struct JoinPart {
  const Graph& graph;
  // Of the names of its inputs and outputs in the joined graph; may be empty.
  std::string prefix;
};

// Calls of one group of ranks keep their order within each graph, and so do
// nodes of which one changes a state that the other uses. What the two share is
// read alone, so that neither depends on how far the other is.
//
// Returns INVALID_ARGUMENT if both use a state that one of them changes, have a
// parameter or state of one name and two types, a count in a state, or an input
// or output of one name.
absl::StatusOr<Graph> JoinGraphs(const JoinPart& first, const JoinPart& second);

}  // namespace strata

#endif  // CORE_PASSES_JOIN_GRAPHS_H_
