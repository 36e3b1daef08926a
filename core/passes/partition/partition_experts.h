// Expert parallelism: from the forward graph of a model the graph of one rank,
// which holds its share of each gate's experts.
//
//   DispatchPlan --> DispatchRows --------------> GroupedMatMul --> CombineRows
//        |                                        all E experts
//        v  becomes
//   DispatchPlan --> DispatchRows --> SendRows --> GroupedMatMul --> ReturnRows
//        |                              ^          E / ep experts       |
//        +--> ExchangePlan -------------+                               v
//                                                                  CombineRows
//
// With movable experts a state says which expert is in which slot, and rows go
// by slot (core/ops/expert_placement.h): a second plan, of slots, takes the
// first one's place in all but the counts of rows by expert.
//
//   choice --> PlaceChoices(placement) --> DispatchPlan --> DispatchRows ...
//
// Gates, losses and loads stay as they are: they see the tokens of their rank,
// among all experts. Operators between the two products that work row by row
// run where the rows are. Any other that reads such rows gets them sent back
// first, once. Gradients come from differentiating the result, so the pass is
// for graphs without any (training's before autodiff, or evaluation's).

#ifndef CORE_PASSES_PARTITION_PARTITION_EXPERTS_H_
#define CORE_PASSES_PARTITION_PARTITION_EXPERTS_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "core/graph/graph.h"

namespace strata {

// Which part of a parameter a rank holds: [begin, end) of its first extent.
struct Shard {
  std::string parameter;
  int64_t begin = 0;
  int64_t end = 0;
  int64_t whole = 0;  // The extent that all ranks hold together.
  // Where experts can move: the state that has the expert of each slot, and how
  // many slots the rank has beyond those of [begin, end), behind them. That
  // part is then what the rank begins with.
  std::string placement;
  int64_t spare = 0;
};

struct ExpertSlots {
  bool movable = false;
  int spare = 0;  // Slots of a rank beyond E / ep, for copies.
};

// The state of the gate whose block has that scope ("model.layers.0.mlp"):
// I32 [slots], core/ops/expert_placement.h.
std::string PlacementName(absl::string_view scope);

struct PartitionedGraph {
  Graph graph;
  // [values of the graph that was given]: what holds the same here; of rows of
  // experts those at home if they are there, else those at the owner.
  std::vector<ValueId> value;
  std::vector<Shard> shards;  // In order of the parameters.
};

// The graph of rank `ep_rank` of `ep` in the group "ep". All ranks' graphs are
// alike but for what their parameters hold. Without experts, or with an ep of
// 1, it is the graph that was given.
//
// Returns INVALID_ARGUMENT if the experts of a gate are not a multiple of ep,
// and UNIMPLEMENTED if an operator other than GroupedMatMul reads their
// weights.
absl::StatusOr<PartitionedGraph> PartitionExperts(
    const Graph& graph, int ep, int ep_rank, const ExpertSlots& slots = {});

}  // namespace strata

#endif  // CORE_PASSES_PARTITION_PARTITION_EXPERTS_H_
