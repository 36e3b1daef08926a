// What the nodes of a workload's traces do together: which nodes are one
// collective, which receive belongs to which send; nodes of all ranks numbered
// through.
//
//   rank 0   COMP  ALL_REDUCE  SEND ──┐      node = first_node[rank] + index
//   rank 1   COMP  ALL_REDUCE  RECV <─┘
//                  └─ a joint ─┘

#ifndef SIM_REPLAY_TRACE_PLAN_H_
#define SIM_REPLAY_TRACE_PLAN_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "sim/chakra/workload.h"

namespace strata::sim {

using NodeIndex = int64_t;  // Over all ranks; -1: none.

enum class NodeRole {
  kNothing,  // Metadata and types that nobody knows: no time.
  kHost,     // A computation on the CPU.
  kCompute,
  kMemory,  // Loads and stores.
  kCollective,
  kSend,
  kReceive,
};

// A collective, or what its members' nodes are of it.
struct Joint {
  uint64_t type = 0;  // A chakra CollectiveCommType.
  uint64_t bytes = 0;
  int channel = 0;  // The group's; one joint at a time runs on a channel.
  std::vector<NodeIndex> nodes;  // In the group's order.
};

struct TracePlan {
  const chakra::Workload* workload = nullptr;
  std::vector<NodeIndex> first_node;  // [ranks + 1]
  std::vector<int32_t> rank_of;       // [nodes]
  std::vector<NodeRole> role;         // [nodes]
  std::vector<int32_t> joint_of;      // [nodes], -1 if not a collective
  std::vector<NodeIndex> peer;        // [nodes], of sends and receives
  std::vector<Joint> joints;
  std::vector<std::vector<int>> channel_ranks;  // [channels]
  std::vector<chakra::ChildLists> children;     // [ranks]

  int RankOf(NodeIndex node) const { return rank_of[node]; }
  const chakra::TraceNode& Node(NodeIndex node) const;
  // "t.0.et: rank 0, node 3 \"AR\"".
  std::string Place(NodeIndex node) const;
};

// Plans a workload that CheckWorkload has passed with Broadcasts::kJoined. The
// n-th collective of a kind and size that a rank issues in a group, by id, is
// the n-th of the others; so are sends and receives of one source, destination,
// tag and size. `workload` must outlive the plan.
//
// Returns INVALID_ARGUMENT, naming files, ranks and nodes, if nodes of several
// ranks wait for each other in a cycle (rank 0 reduces, then receives what rank
// 1 sends before it reduces), if a group has a rank twice, or if there are more
// than 2^31 nodes. What passes runs to its end.
absl::StatusOr<TracePlan> PlanTraces(const chakra::Workload& workload);

}  // namespace strata::sim

#endif  // SIM_REPLAY_TRACE_PLAN_H_
