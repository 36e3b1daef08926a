// The graphs of a training step, built from the model's own.
//
//   gradients  forward, backward, and the gradients added to states
//              "grad.<parameter>", the rows of each expert to the gates' loads;
//              once a micro-batch
//   update     with several ranks, the sums over them; norm of the gradients,
//              AdamW on every parameter; the gates' load bias; once a step
//
// With several ranks they are those of one rank (docs/distributed.md).

#ifndef TRAINING_STEP_GRAPH_H_
#define TRAINING_STEP_GRAPH_H_

#include <cstdint>
#include <set>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "core/graph/graph.h"
#include "core/model/config.pb.h"
#include "core/model/gate.h"
#include "core/model/moe.h"
#include "core/parallel/mesh.h"
#include "core/passes/bf16_training.h"
#include "core/passes/partition/cut_graph.h"
#include "core/passes/partition/partition_experts.h"
#include "core/tensor/dtype.h"
#include "training/config.pb.h"
#include "training/sums/owners.h"

namespace strata {

// Where in the mesh a rank stands, of a run of several. In the place of a
// stage's graphs pp is the number of stages, and pp_rank the stage: where a
// rank holds several stages, they are not those of the mesh (OfStage).
struct MeshPlace {
  MeshShape shape;
  int dp_rank = 0;
  int ep_rank = 0;
  int pp_rank = 0;
  ExpertSlots slots;  // Whether experts can move, of several ranks of ep.

  bool is_last_stage() const { return pp_rank == shape.pp - 1; }
  MeshPlace OfStage(int stage, int num_stages) const {
    MeshPlace place = *this;
    place.shape.pp = num_stages;
    place.pp_rank = stage;
    return place;
  }
};

// A value that one stage of a pipeline makes and a later one reads, by the
// names that it and its gradient have in this stage's graph.
struct StageMessage {
  int stage = 0;      // The other one.
  std::string value;  // An output where it is sent, an input where received;
  std::string grad;   // the other way about. Empty: integers have none.
};

struct StepGraph {
  Graph graph;
  std::vector<RouterValues> routers;  // Of all stages; values of this one.
  std::vector<Shard> shards;  // Of parameters that the rank has a part of.
  // Of a stage, from and to each other one in the order in which that sends and
  // receives.
  std::vector<StageMessage> received;
  std::vector<StageMessage> sent;
  // Parameters that the first and the last stage both hold.
  std::vector<std::string> tied;
};

// Who updates what: of the parameters that all ranks of a stage hold, the ranks
// of "batch"; of the rank's shards, those of "dp". One rank without
// `shard_optimizer`.
struct ParameterOwners {
  Owners common;
  Owners shards;
};

// Sums over ranks of what a gradient graph has found, within it.
struct GradientSums {
  // Each bucket becomes its sum as soon as it is whole: for the last
  // micro-batch of a step. SplitPhases() has the sums in the last piece.
  bool made = false;
  // Buckets are a sixteenth of all, if that is worth a message: of a small
  // model too most are under way before the last gradient is there. If not,
  // they are as large as those of the update.
  bool small_buckets = false;
  // At the ranks that update the parameters alone (RankSums).
  bool to_owners = false;
  // Parameters whose sums are made elsewhere (RankSums::LeavesToUpdate), or by
  // another stage of the rank, which ends later.
  std::set<std::string> elsewhere = {};
  // Of all stages of the rank; null: of this one.
  const ParameterOwners* owners = nullptr;
};

// Inputs: the decoder's (core/model/decoder.h), and "keep" []: 0 to begin a new
// sum of gradients, 1 to add to it. Outputs: the decoder's. A stage of a
// pipeline has those of its layers, and its messages. Gradients are summed over
// ranks within it as `sums` says.
//
// Returns the errors of PartitionExperts() and BalancedStages()
// (core/passes/partition).
absl::StatusOr<StepGraph> BuildGradientGraph(
    const ModelConfig& model, int64_t num_sequences, int64_t seq_len,
    DType dtype = DType::kF32, RouteSource route = RouteSource::kGate,
    const MeshPlace& place = {}, const GradientSums& sums = {},
    bool fused = false);  // DecoderOptions::fused

// The decoder's own graph for validation, likewise.
absl::StatusOr<StepGraph> BuildEvaluationGraph(const ModelConfig& model,
                                               int64_t num_sequences,
                                               int64_t seq_len, DType dtype,
                                               RouteSource route,
                                               const MeshPlace& place);

// `step`, a gradient graph or one for validation, in less memory: losses that
// never have the logits of all tokens (core/passes/chunk_losses.h), gates'
// gradients for which no rows that experts made are kept
// (core/passes/slot_dots.h). Before InBf16().
StepGraph InLessMemory(StepGraph step);

// `step` with `weights`, the sums of their gradients, and rows in BF16
// (core/passes/bf16_training.h); as it is without weights. INTERNAL if an
// operator would take one of them for F32.
absl::StatusOr<StepGraph> InBf16(StepGraph step,
                                 const std::set<std::string>& weights,
                                 WeightState state = WeightState::kBf16);

// How a step's sums are over ranks.
struct RankSums {
  bool over_ranks = false;  // If not, this rank is alone.
  // Those of gradients are made already, but of LeavesToUpdate().
  bool in_gradients = false;
  bool shard_optimizer = false;  // Each has the moments of some parameters,
  // and sums of gradients are there alone: with sharded moments, of experts
  // that cannot move.
  bool to_owners = false;
  MeshPlace place;
  std::vector<Shard> shards;      // Of the gradient graphs.
  std::vector<std::string> tied;  // That the rank at the other end holds too.

  // What the gradients cannot sum: the owners of what both ends hold differ, so
  // it is summed over the ends before it goes to them.
  std::set<std::string> LeavesToUpdate() const;
};

// The owners of what a rank's stages have, `sources` by their graphs.
ParameterOwners OwnersOf(absl::Span<const Graph* const> sources,
                         absl::Span<const Shard> shards, const MeshPlace& place,
                         bool shard_optimizer);

// The parameters of a graph, in order of their ids.
std::vector<ValueId> Parameters(const Graph& graph);

// The state that a parameter's gradients are summed in.
std::string GradName(absl::string_view parameter);

// The parameters of a layer that all ranks of its stage hold alike, or the
// rank's own of those that are shared out.
enum class LayerPart { kCommon, kShard };

// The output of BuildUpdateGraph that is the norm of a layer's gradients.
std::string LayerNormName(int64_t layer, LayerPart part);

// Inputs: "divisor" [] (micro-batches summed), "learning_rate" [], "step" [].
// States: "adam.m.<parameter>" and "adam.v.<parameter>". Outputs: "grad_norm",
// and LayerNormName of the layers that the rank has part of.
// `gradients` are the gradient graphs of the rank's stages, the first first.
// Gradients and loads are summed over all ranks with sequences of their own,
// those of shards over the ranks that hold the same (core/ops/collective.h); of
// a mirrored mesh, over the two that hold the same stages too. The norm is that
// of all ranks' gradients, each counted once.
// With shard_optimizer a rank has the moments of, and updates, those parameters
// that are its own, and is sent the others by their owners: whole parameters,
// the largest first to the rank that has the fewest elements.
absl::StatusOr<Graph> BuildUpdateGraph(absl::Span<const Graph* const> gradients,
                                       const ModelConfig& model,
                                       const TrainConfig& train,
                                       const RankSums& sums, DType dtype);

// The same, of one graph.
absl::StatusOr<Graph> BuildUpdateGraph(const Graph& gradients,
                                       const ModelConfig& model,
                                       const TrainConfig& train,
                                       const RankSums& sums = {},
                                       DType dtype = DType::kF32);

// A gradient graph in pieces that a pipeline's schedule runs apart: forward,
// input gradients, and weight gradients with their sums. What one makes and a
// later one reads is called PieceValueName("phase", ...) in both.
absl::StatusOr<std::vector<GraphPiece>> SplitPhases(const Graph& gradients);
// The same in two: forward, with the outputs that it has there, and all
// gradients.
absl::StatusOr<std::vector<GraphPiece>> SplitForward(const Graph& gradients);

}  // namespace strata

#endif  // TRAINING_STEP_GRAPH_H_
