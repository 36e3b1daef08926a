// Expert replication and placement by local search: better balanced than EPLB,
// never worse, and moving few experts.
//
//   load     [num_experts]  tokens routed to each expert, >= 0
//   present  [num_slots]    the placement in force, if there is one
//     |
//     |  new placements: EPLB's, and a search from a packing of our own
//     |  near the present: a search from it that stops as soon as the maximum
//     |  is no higher than EPLB's and within `slack` of the best new one's;
//     |  then what can go back to its slot does
//     v
//   the placement with the fewest changed slots, and how to get there
//
// What is promised of every result:
//   - its max/mean over GPUs is not above EPLB's, but for rounding (1e-12),
//     unless max_above_eplb allows it;
//   - groups stay together where EPLB keeps them so (IsHierarchical);
//   - no GPU holds an expert twice, unless its slots outnumber the experts that
//     it may hold (MustDuplicate), or the search found nothing as good as EPLB
//     without. That is seldom. Sometimes there is nothing: two replicas on a
//     GPU and one on another split a load 2 : 1, which can be what evens out
//     the rest. Sometimes the search, which is bounded, ended too soon;
//   - the loads it was made for, again, move nothing;
//   - the same input gives the same result: work is counted, not timed.
//
// docs/placement.md says why it is done so, and how good it is.

#ifndef CORE_PARALLEL_REBALANCE_H_
#define CORE_PARALLEL_REBALANCE_H_

#include <cstdint>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "core/parallel/migration.h"
#include "core/parallel/placement.h"

namespace strata {

struct RebalanceOptions {
  // What an expert's move costs: all its weights, and its optimizer state where
  // it is trained.
  int64_t bytes_per_expert = 0;
  // With a present placement: a maximum this share above that of the best
  // placement found will do, where it takes fewer moves. At least 0.
  double slack = 0.02;
  // How far above EPLB's maximum that may lead, as a share. At 0 the promise to
  // be no worse than EPLB holds, but where EPLB is within per milles of even,
  // nearly every GPU has to change; some per cent save most moves.
  double max_above_eplb = 0;
};

struct Rebalanced {
  Placement placement;
  MigrationPlan migration;  // From the present placement; empty without one.
  double max_over_mean = 1;
  double eplb_max_over_mean = 1;  // Of EPLB for the same loads.
  double lower_bound = 1;         // MaxOverMeanLowerBound.
};

// Places the experts of one layer. `present` may be null.
//
// Returns INVALID_ARGUMENT if the shape, the loads, an option or the present
// placement is invalid. A present placement that parts groups is valid, and is
// put in order.
absl::StatusOr<Rebalanced> Rebalance(const PlacementShape& shape,
                                     absl::Span<const double> load,
                                     const RebalanceOptions& options,
                                     const Placement* present);

struct ModelRebalanced {
  std::vector<Rebalanced> layers;
  int64_t slots_changed = 0;
  int64_t bytes_moved = 0;
  int64_t bytes_between_nodes = 0;
  // Means over the layers.
  double max_over_mean = 1;
  double eplb_max_over_mean = 1;
};

// Places the experts of all layers, each by itself. `present` has a placement a
// layer, or is empty.
//
// Returns INVALID_ARGUMENT as Rebalance does, naming the layer, or if the
// numbers of layers differ or are 0.
absl::StatusOr<ModelRebalanced> RebalanceLayers(
    const PlacementShape& shape,
    absl::Span<const std::vector<double>> load,  // [layers][num_experts]
    const RebalanceOptions& options,
    absl::Span<const Placement> present);  // [layers] or []

}  // namespace strata

#endif  // CORE_PARALLEL_REBALANCE_H_
