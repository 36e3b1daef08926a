// Cuts a graph into pieces that run apart: stages of a pipeline on several
// ranks, or forward and gradients of a stage at different times.
//
//   graph     n0 n1 n2 n3 n4 n5        piece of each node: 0 0 1 0 1 1
//     |
//     |  a value that another piece makes becomes an input of this one, and an
//     |  output of the other
//     v
//   piece 0   n0 n1 n3                 piece 1   n2 n4 n5
//
// Inputs, parameters and states of the graph are in every piece that reads
// them.

#ifndef CORE_PASSES_PARTITION_CUT_GRAPH_H_
#define CORE_PASSES_PARTITION_CUT_GRAPH_H_

#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "core/graph/graph.h"

namespace strata {

// Ids are of the graph that was cut.
struct GraphPiece {
  Graph graph;
  std::vector<ValueId> value;    // [values], the same here; kNone: not here
  std::vector<ValueId> imports;  // That other pieces make: inputs; ascending.
  std::vector<ValueId> exports;  // That other pieces import: outputs; likewise.
};

// What an import or an export is called in the pieces: "<prefix>.<id>".
std::string PieceValueName(absl::string_view prefix, ValueId id);

// `piece_of` [nodes] is in [0, num_pieces); nodes of a piece keep their order.
// An output of the graph is one of the piece that makes it; where it is an
// input, parameter or state, of all.
//
// Returns INTERNAL if a piece would import from a later one.
absl::StatusOr<std::vector<GraphPiece>> CutGraph(const Graph& graph,
                                                 absl::Span<const int> piece_of,
                                                 int num_pieces,
                                                 absl::string_view prefix);

// The stage of each node of a decoder's forward graph, [nodes], cut where a
// block ("model.layers.<n>", n < num_blocks) begins: of all ways that one with
// the least FLOPs in its largest stage. What stands before the first block is
// in the first stage, what stands behind the last block in the last.
//
// Returns INVALID_ARGUMENT if there are fewer blocks than stages.
absl::StatusOr<std::vector<int>> BalancedStages(const Graph& graph,
                                                int num_blocks, int num_stages);

}  // namespace strata

#endif  // CORE_PASSES_PARTITION_CUT_GRAPH_H_
