// The graphs of a training step, built from the model's own.
//
//   gradients  forward, backward, and the gradients added to states
//              "grad.<parameter>"; once a micro-batch
//   update     norm of the gradients, AdamW on every parameter; once a step

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
// `parameters` is a graph that declares the model's parameters.
absl::StatusOr<Graph> BuildUpdateGraph(const Graph& parameters,
                                       const TrainConfig& train,
                                       DType dtype = DType::kF32);

}  // namespace strata

#endif  // TRAINING_STEP_GRAPH_H_
