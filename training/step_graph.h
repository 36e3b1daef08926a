// The graphs of a training step, built from the model's own.
//
//   gradients  forward, backward, and the gradients added to states
//              "grad.<parameter>", the rows of each expert to the gates' loads;
//              once a micro-batch
//   update     with several ranks, the sums over them; norm of the gradients,
//              AdamW on every parameter; the gates' load bias; once a step

#ifndef TRAINING_STEP_GRAPH_H_
#define TRAINING_STEP_GRAPH_H_

#include <cstdint>
#include <vector>

#include "absl/status/statusor.h"
#include "core/graph/graph.h"
#include "core/model/config.pb.h"
#include "core/model/gate.h"
#include "core/model/moe.h"
#include "core/tensor/dtype.h"
#include "training/config.pb.h"

namespace strata {

struct StepGraph {
  Graph graph;
  std::vector<RouterValues> routers;
};

// Inputs: the decoder's (core/model/decoder.h), and "keep" []: 0 to begin a new
// sum of gradients, 1 to add to it. Outputs: the decoder's.
absl::StatusOr<StepGraph> BuildGradientGraph(
    const ModelConfig& model, int64_t num_sequences, int64_t seq_len,
    DType dtype = DType::kF32, RouteSource route = RouteSource::kGate);

// Inputs: "divisor" [] (micro-batches summed), "learning_rate" [], "step" [].
// States: "adam.m.<parameter>" and "adam.v.<parameter>". Output: "grad_norm".
// `gradients` is the gradient graph. If `sum_over_ranks`, gradients and loads
// are those of all ranks with sequences of their own (core/ops/collective.h).
absl::StatusOr<Graph> BuildUpdateGraph(const Graph& gradients,
                                       const ModelConfig& model,
                                       const TrainConfig& train,
                                       bool sum_over_ranks = false,
                                       DType dtype = DType::kF32);

}  // namespace strata

#endif  // TRAINING_STEP_GRAPH_H_
