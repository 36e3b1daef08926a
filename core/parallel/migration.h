// How a layer gets from one placement to another: which slots take which
// expert, copied from where.
//
//   from, to  two placements of one shape
//     |
//     |  RelabelToMatch: names of GPUs, nodes and slots mean nothing to the
//     |  balance, so `to` takes those with which most slots stay as they are
//     v
//   MigrationPlan  a copy for each slot whose expert changes
//
// The trainer and the server carry a plan out while they run. Every copy reads
// what its source held before the first one wrote, so a source that is itself
// overwritten has to be read beforehand.

#ifndef CORE_PARALLEL_MIGRATION_H_
#define CORE_PARALLEL_MIGRATION_H_

#include <cstdint>
#include <vector>

#include "absl/status/statusor.h"
#include "core/parallel/placement.h"

namespace strata {

struct SlotCopy {
  int32_t slot;         // The slot to fill,
  int32_t from_expert;  // which held this expert
  int32_t to_expert;    // and will hold this one,
  int32_t source_slot;  // which this slot held before the migration.
};

struct MigrationPlan {
  std::vector<SlotCopy> copies;  // By ascending slot.
  int64_t bytes_moved = 0;
  int64_t bytes_between_nodes = 0;  // The part that leaves its node.
};

// Returns the plan with one copy for each slot in which the placements differ.
// A source is on the same GPU if it can be, else on the same node; of several
// it is the one that is read the least, then the lowest slot.
//
// Returns INVALID_ARGUMENT if the shape or a placement is invalid, or if
// bytes_per_expert is negative.
absl::StatusOr<MigrationPlan> PlanMigration(const PlacementShape& shape,
                                            const Placement& from,
                                            const Placement& to,
                                            int64_t bytes_per_expert);

// Returns `placement` with GPUs exchanged, and slots within a GPU, so that the
// most slots hold the expert that they hold in `present`. Loads stay the same
// but for the GPU's name. Hierarchical placements have their nodes exchanged as
// a whole. All arguments are valid.
//
// Takes O(num_gpus^3 + num_gpus * num_slots) at worst.
Placement RelabelToMatch(const PlacementShape& shape, const Placement& present,
                         const Placement& placement);

}  // namespace strata

#endif  // CORE_PARALLEL_MIGRATION_H_
