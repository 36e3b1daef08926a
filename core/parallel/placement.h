// Where the replicas of one layer's experts live.
//
//   expert  [num_slots]  which expert a slot holds; every expert has at least
//                        one slot, and a loaded one may have several
//
//   slot      0   1   2 | 3   4   5 | 6   7   8 | 9  10  11
//   expert    5   6   1 | 5   7   2 | 0   4   3 | 5   4   2
//   GPU           0     |     1     |     2     |     3
//   node                0           |           1
//
// Slots are dealt to GPUs, and GPUs to nodes, in equal runs. An expert's load
// is split evenly over its replicas, so a GPU's load is the sum of load /
// replicas over its slots. The layer ends when the most loaded GPU does:
// maximum over mean is how much longer than need be.
//
// Placements come from eplb.h (the baseline), rebalance.h (ours) and
// optimal_placement.h (small cases). All functions are pure.

#ifndef CORE_PARALLEL_PLACEMENT_H_
#define CORE_PARALLEL_PLACEMENT_H_

#include <cstdint>
#include <vector>

#include "absl/status/status.h"
#include "absl/types/span.h"

namespace strata {

// The sizes that a placement has to fit.
struct PlacementShape {
  int num_experts = 0;
  int num_slots = 0;  // Over all GPUs; a multiple of num_gpus.
  int num_gpus = 1;   // A multiple of num_nodes.
  int num_nodes = 1;
  // Groups of consecutive experts, of routing that is limited to some groups of
  // them; 1 if it is not.
  int num_groups = 1;

  int SlotsPerGpu() const { return num_slots / num_gpus; }
  int GpusPerNode() const { return num_gpus / num_nodes; }
  int SlotsPerNode() const { return num_slots / num_nodes; }
  int ExpertsPerGroup() const { return num_experts / num_groups; }
  int GpuOfSlot(int slot) const { return slot / SlotsPerGpu(); }
  int NodeOfSlot(int slot) const { return slot / SlotsPerNode(); }

  // Whether every group lives on one node, the same number of groups on each,
  // so that a token's traffic stays on the nodes of its groups. Where groups do
  // not divide over nodes, nodes are ignored.
  bool IsHierarchical() const { return num_groups % num_nodes == 0; }
};

struct Placement {
  std::vector<int32_t> expert;  // [num_slots]
};

inline bool operator==(const Placement& a, const Placement& b) {
  return a.expert == b.expert;
}

// Returns INVALID_ARGUMENT if a size is not positive, if there are fewer slots
// than experts, or if something does not divide: slots over GPUs, GPUs over
// nodes, experts over groups.
absl::Status ValidateShape(const PlacementShape& shape);

// Returns INVALID_ARGUMENT if `load` is not one finite, not negative number per
// expert, or if their sum is not finite.
absl::Status ValidateLoad(const PlacementShape& shape,
                          absl::Span<const double> load);

// Returns INVALID_ARGUMENT if the number of slots is another, if a slot holds
// no expert of the shape, or if an expert has no slot. A placement that parts a
// group is valid: it works, only at a higher cost; see KeepsGroups.
absl::Status ValidatePlacement(const PlacementShape& shape,
                               const Placement& placement);

// What follows takes valid arguments.

// Returns the number of replicas of each expert, [num_experts].
std::vector<int32_t> ReplicaCounts(const PlacementShape& shape,
                                   const Placement& placement);

// Returns the slots of each expert in ascending order, [num_experts][replicas].
std::vector<std::vector<int32_t>> SlotsOfExperts(const PlacementShape& shape,
                                                 const Placement& placement);

// Returns the load of each GPU, [num_gpus]. It is summed in the order of the
// experts, so placements that differ in names of GPUs and slots alone have the
// very same loads.
std::vector<double> GpuLoads(const PlacementShape& shape,
                             const Placement& placement,
                             absl::Span<const double> load);  // [num_experts]

// Returns the largest of the GPUs' loads over their mean; 1 if there is no
// load.
double MaxOverMean(const PlacementShape& shape, const Placement& placement,
                   absl::Span<const double> load);  // [num_experts]

// Returns the number of GPUs that hold two or more replicas of one expert, of
// which all but one are slots wasted.
int NumGpusWithDuplicates(const PlacementShape& shape,
                          const Placement& placement);

// Returns whether some GPU must hold two replicas of one expert: a GPU has more
// slots than there are experts to fill them with.
bool MustDuplicate(const PlacementShape& shape);

// Returns whether each group is on one node, and each node has as many groups.
// True if the shape is not hierarchical, as then nothing is asked.
bool KeepsGroups(const PlacementShape& shape, const Placement& placement);

// Returns the replica counts whose heaviest replica is the lightest possible,
// max load / count least: repeatedly one more for the expert of the heaviest
// replica, the lower index of equals. An expert gets at most `max_replicas`,
// unless that leaves slots empty.
std::vector<int32_t> MinMaxReplicaCounts(absl::Span<const double> load,
                                         int num_slots, int max_replicas);

// Returns a max/mean which no placement goes below, the largest of
//   - 1, the mean;
//   - the heaviest replica under MinMaxReplicaCounts;
//   - in hierarchical shapes, what the same two say of a node that holds the
//     group at hand and the lightest others, for every group.
// It need not be reached.
double MaxOverMeanLowerBound(const PlacementShape& shape,
                             absl::Span<const double> load);

}  // namespace strata

#endif  // CORE_PARALLEL_PLACEMENT_H_
