// What is trained by paced ranks (paced_rank.h), and the graphs of it that a
// prediction walks.

#ifndef TRAINING_PACED_PACED_SETUP_H_
#define TRAINING_PACED_PACED_SETUP_H_

#include <set>
#include <string>

#include "absl/status/statusor.h"
#include "core/graph/graph.h"
#include "core/graph/op_def.h"
#include "core/model/config.pb.h"
#include "core/parallel/mesh.h"
#include "core/parallel/pipeline_schedule.h"
#include "training/config.pb.h"
#include "training/paced/graph_walk.h"
#include "training/paced/paced_rank.h"
#include "training/step_graph.h"

namespace strata {

struct PacedSetup {
  ModelConfig model;  // Of flat gates: loads are even (RouteSource::kBalanced).
  TrainConfig train;
  MeshShape shape;
  PipelineKind schedule = PipelineKind::k1F1B;  // Where pp is not 1.
  bool overlap_sums = false;
  bool overlap_rows = false;
  bool join_pairs = true;  // TrainerOptions.
  bool shard_optimizer = false;
  Pace pace;
};

// The gradient graph of a stage, as a trainer of that setup has it.
absl::StatusOr<StepGraph> PacedGradients(const PacedSetup& setup,
                                         const MeshPlace& place,
                                         const GradientSums& sums = {});

// Counts of even loads: what is laid out is used, but of the rows that `ranks`
// send one another, which might all go to one. `arrived`: inputs of a piece of
// a graph that count such rows (ArrivedRows).
Binding EvenLoads(const Graph& graph, int ranks,
                  std::set<std::string> arrived = {});

// How the counts of rows that come from other ranks are called in the later
// pieces that SplitPhases() makes of the graph.
std::set<std::string> ArrivedRows(const Graph& gradients);

GraphSeconds Walk(const Graph& graph, const PacedSetup& setup,
                  const std::set<std::string>& arrived = {});

}  // namespace strata

#endif  // TRAINING_PACED_PACED_SETUP_H_
