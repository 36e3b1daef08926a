// The algorithms of collectives, as phases.

#ifndef SIM_COLLECTIVE_ALGORITHM_H_
#define SIM_COLLECTIVE_ALGORITHM_H_

#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "sim/collective/group.h"
#include "sim/collective/phase.h"
#include "sim/network/topology.h"

namespace strata::sim {

enum class CollectiveKind {
  kAllReduce,
  kAllGather,
  kReduceScatter,
  kAllToAll,
  kAllToAllV,
  kBroadcast,  // From the group's first rank.
  kSendRecv,   // From the group's first rank to its second, the last.
};

enum class CollectiveAlgorithm {
  kAuto,  // The one that takes the least time, as NCCL's tuner means to choose.
  kRing,
  kTree,             // Double binary tree over nodes, a chain within each.
  kDirect,           // Everyone to everyone at once.
  kHalvingDoubling,  // Recursive; the group's size is a power of two.
  kHierarchical,     // Within the nodes, then between them, then within.
  kInSwitch,         // The node's switches add up (NVLS).
};

// "all-reduce", "ring", ...
absl::string_view NameOf(CollectiveKind kind);
absl::string_view NameOf(CollectiveAlgorithm algorithm);

// Which constants time a plan.
enum class Transport { kProtocols, kPointToPoint, kInSwitch };

struct PlanPhase {
  Phase phase;
  // Of the plan's `groups`, where the phase is not the whole group's; else -1.
  int group = -1;
};

struct Plan {
  CollectiveAlgorithm algorithm = CollectiveAlgorithm::kRing;
  Transport transport = Transport::kProtocols;
  std::vector<PlanPhase> phases;
  std::vector<Group> groups;
  double copy_bytes = 0;  // Of its own that a rank moves from buffer to buffer.
  // Of point to point: other ranks that a rank sends to, at most, and bytes to
  // one of them, at most.
  double peers = 0;
  double flow_bytes = 0;
};

// The plan of a collective of `bytes`, as CollectiveRequest counts them, over
// at least two ranks. Not for all-to-all-v and send/recv, which have no choice.
//
// Returns INVALID_ARGUMENT if there is no such algorithm for the kind, or if
// the group does not suit it.
absl::StatusOr<Plan> MakePlan(CollectiveKind kind,
                              CollectiveAlgorithm algorithm, double bytes,
                              const Group& group, const Topology& topology);

// The algorithms that kAuto chooses from.
std::vector<CollectiveAlgorithm> Candidates(CollectiveKind kind,
                                            bool in_switch_type,
                                            const Group& group,
                                            const Topology& topology);

// Whether the switches of all of the group's nodes can reduce for it.
bool HasInSwitchReduction(const Group& group, const Topology& topology);

}  // namespace strata::sim

#endif  // SIM_COLLECTIVE_ALGORITHM_H_
