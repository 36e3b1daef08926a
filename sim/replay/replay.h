// Replays Chakra traces on a cluster of Strata's: computations by what the
// trace recorded or by a roofline, communication by sim/collective on links
// that are shared (shared_links.h).
//
//   ASSIGN_OR_RETURN(chakra::Workload workload, chakra::LoadWorkload("t", 8));
//   ASSIGN_OR_RETURN(ReplayResult result, ReplayTraces(workload, cluster, {}));
//
// Rank r of the traces is GPU r of the cluster. Each GPU does one computation,
// one host operation and one load or store at a time, the ready one of least id
// first. The collectives of a group run one after the other, those of other
// groups and messages beside them. A collective begins when its last rank
// joins; a message leaves when its send is ready, and is buffered if nobody
// receives it yet. docs/chakra.md has the rules.

#ifndef SIM_REPLAY_REPLAY_H_
#define SIM_REPLAY_REPLAY_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "sim/chakra/workload.h"
#include "sim/cluster/cluster.h"
#include "sim/engine/time.h"
#include "sim/replay/trace_plan.h"

namespace strata::sim {

struct ReplayOptions {
  // Computations with FLOPs (num_ops) take the roofline's time though their
  // duration is recorded. Without it only those without a duration do.
  bool roofline = false;
  // Shares of the data sheet's rates that the roofline reaches.
  double flops_share = 0.75;
  double memory_share = 0.85;
};

// When a node of the traces did what. `joined` is when nothing but the others
// kept it: the last parent's end.
struct NodeTime {
  Picoseconds joined = 0;
  // Collectives: when the last rank joined; receives: when the message left, if
  // that was later than `joined`. Others: `joined`.
  Picoseconds met = 0;
  Picoseconds start = 0;  // Of the work itself, after waiting for its turn.
  Picoseconds end = 0;
  // What it waited for last: the parent, the other rank's node, or the node
  // that had its turn before it; -1: the beginning.
  NodeIndex cause = -1;
};

struct ReplayResult {
  Picoseconds total = 0;
  std::vector<NodeTime> times;  // [nodes] of the plan
  TracePlan plan;               // Its workload is the caller's.
  int64_t num_events = 0;
  // What was taken otherwise than the trace may mean, one a line.
  std::vector<std::string> notes;
};

// Returns the errors of chakra::CheckWorkload and PlanTraces, which name file,
// rank, node and partner; INVALID_ARGUMENT if there are more ranks than GPUs,
// or for a collective of a type that is not known; OUT_OF_RANGE if the time
// exceeds 106 days.
absl::StatusOr<ReplayResult> ReplayTraces(const chakra::Workload& workload,
                                          const Cluster& cluster,
                                          const ReplayOptions& options);

}  // namespace strata::sim

#endif  // SIM_REPLAY_REPLAY_H_
