// EPLB, the baseline that rebalance.h is held to: greedy replication and
// packing of experts, by DeepSeek-AI's published algorithm.
//
//   load  [num_experts]  tokens routed to each expert, >= 0
//     |
//     |  pack groups onto nodes, heaviest first into the least loaded node
//     |  that has room
//     |  within a node: one replica more for the expert of the heaviest
//     |  replica (load / replicas), until the node's slots are used
//     |  pack the replicas onto the node's GPUs, in the same way
//     v
//   placement
//
// Where groups do not divide over nodes there is one node and one group: the
// global policy. Of equals the lower index goes first, everywhere.
//
// It knows no present placement, and may put replicas of one expert on one GPU.

#ifndef CORE_PARALLEL_EPLB_H_
#define CORE_PARALLEL_EPLB_H_

#include <cstdint>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "core/parallel/placement.h"

namespace strata {

struct EplbPlacement {
  Placement placement;
  // The slots of each expert in the order in which its replicas were made,
  // [num_experts][replicas].
  std::vector<std::vector<int32_t>> slots;
};

// Returns INVALID_ARGUMENT if the shape or the loads are invalid.
absl::StatusOr<EplbPlacement> PlaceByEplb(const PlacementShape& shape,
                                          absl::Span<const double> load);

// Deals items to packs, the same number to each (num_packs divides the number
// of items): the heaviest item first, to the least loaded pack that is not
// full. Returns the items of each pack in the order they came.
std::vector<std::vector<int32_t>> PackBalanced(absl::Span<const double> weight,
                                               int num_packs);

}  // namespace strata

#endif  // CORE_PARALLEL_EPLB_H_
