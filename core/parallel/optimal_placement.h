// The best placement there is, for small layers: what eplb.h and rebalance.h
// are measured against.
//
// Branch and bound over what they decide by rules: which groups go to which
// node, how many replicas each expert has, and which GPU takes each replica,
// heaviest first. GPUs and nodes that are still empty are the same, and so are
// replicas of one expert. The time grows exponentially with the slots.

#ifndef CORE_PARALLEL_OPTIMAL_PLACEMENT_H_
#define CORE_PARALLEL_OPTIMAL_PLACEMENT_H_

#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "core/parallel/placement.h"

namespace strata {

// Some milliseconds each; twice as many would be hours. Of a node, under the
// hierarchical policy, and of all nodes otherwise.
inline constexpr int kMaxSlotsForOptimum = 12;
// Under the hierarchical policy. No more than 10,395 ways to deal these.
inline constexpr int kMaxGroupsForOptimum = 12;

enum class Duplicates {
  kAllowed,
  kForbidden,  // On one GPU. Not with a shape that needs them: MustDuplicate.
};

// Returns a placement of the least max/mean over GPUs that is possible; under
// the hierarchical policy, that is possible with groups kept together.
//
// Returns INVALID_ARGUMENT if the shape or the loads are invalid, if there are
// more slots than kMaxSlotsForOptimum or groups than kMaxGroupsForOptimum, or
// if duplicates are forbidden but needed.
absl::StatusOr<Placement> FindOptimalPlacement(const PlacementShape& shape,
                                               absl::Span<const double> load,
                                               Duplicates duplicates);

}  // namespace strata

#endif  // CORE_PARALLEL_OPTIMAL_PLACEMENT_H_
