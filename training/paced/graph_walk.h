// What a run of a graph takes on a rank whose operators take their cost in time
// (paced_rank.h), all ranks alike: nodes one after the other, those that run
// beside others on the lane of their group (core/passes/plan_beside.h).

#ifndef TRAINING_PACED_GRAPH_WALK_H_
#define TRAINING_PACED_GRAPH_WALK_H_

#include "core/graph/graph.h"
#include "core/graph/op_def.h"
#include "core/parallel/mesh.h"
#include "training/paced/paced_rank.h"

namespace strata {

struct GraphSeconds {
  double all = 0;
  // Of these, for what ranks exchange: nodes in their place, and the rest of
  // those that ran beside others when they are waited for.
  double exposed = 0;
  // When the last of those that ran beside others ended.
  double lanes = 0;
};

// `binding` says how many there are of ragged extents. `waits_at_end`: for the
// lanes, as Program::RunAhead does not.
GraphSeconds WalkGraph(const Graph& graph, const Pace& pace,
                       const MeshShape& shape, const Binding& binding,
                       bool waits_at_end = true);

}  // namespace strata

#endif  // TRAINING_PACED_GRAPH_WALK_H_
