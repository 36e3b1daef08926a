// A training step of a large model on one GPU, or on one rank's of several,
// with random weights made there: the graphs that the trainer runs, without its
// data and checkpoints.

#ifndef TRAINING_GPU_LARGE_STEP_H_
#define TRAINING_GPU_LARGE_STEP_H_

#include <cstdint>
#include <memory>
#include <set>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "core/model/config.pb.h"
#include "core/parallel/mesh.h"
#include "core/runtime/program.h"
#include "core/runtime/state_store.h"
#include "cuda/runtime/cuda_backend.h"
#include "training/config.pb.h"
#include "training/step_graph.h"

namespace strata::gpu {

struct LargeStepRank {
  int device = 0;
  const Mesh* mesh = nullptr;    // Of dp and ep; null: one rank.
  bool shard_optimizer = false;  // ZeRO-1, as the trainer's.
  // Sums of gradients, and rows of experts, beside other work; sums if a step
  // is one micro-batch.
  bool overlap_sums = false;
  bool overlap_rows = false;
};

class LargeStep {
 public:
  // `train` says how: seq_len, batch_size sequences a micro-batch, accumulation
  // of them a step and rank, state_precision; products are BF16. All ranks of a
  // mesh create theirs, and then make the same calls.
  //
  // Returns RESOURCE_EXHAUSTED, with what was wanted, before anything runs, if
  // the GPU has too little memory; INVALID_ARGUMENT for overlap_sums with
  // several micro-batches.
  static absl::StatusOr<std::unique_ptr<LargeStep>> Create(
      const ModelConfig& model, const TrainConfig& train,
      const LargeStepRank& rank = {});

  // The micro-batches, all of the same random tokens as the step before: their
  // loss falls. Then Update().
  absl::Status Gradients();
  absl::Status Update();

  // The mean of the last Gradients(), as the rank's other numbers.
  double loss() const { return loss_; }
  int64_t tokens() const;  // Of a step.
  int64_t num_parameters() const;
  int64_t state_bytes() const { return state_->num_bytes(); }
  int64_t activation_bytes() const { return gradients_->num_bytes(); }
  // What AdamW must read and write, and the gradients' norm read.
  double UpdateBytes() const;
  // Products, forward and backward: 6 a weight that a token meets, and those of
  // attention, forward twice, backward five times a causal pair of columns.
  double Flops() const;

  const CudaBackend& backend() const { return *backend_; }
  Program& gradient_program() { return *gradients_; }
  Program& update_program() { return *update_; }
  // The rows of each expert of each gate in the last step, of all ranks.
  std::vector<std::vector<int64_t>> ExpertLoads() const;

 private:
  LargeStep(const ModelConfig& model, const TrainConfig& train,
            const LargeStepRank& rank)
      : model_(model), train_(train), rank_(rank) {}

  MeshPlace Place() const;
  // Of those that share a step's micro-batches out, and which this is.
  int NumRanks() const;
  int BatchRank() const;

  absl::Status Compile();
  absl::Status FillState();

  const ModelConfig model_;
  const TrainConfig train_;
  const LargeStepRank rank_;
  std::unique_ptr<CudaBackend> backend_;
  std::unique_ptr<StateStore> state_;
  std::unique_ptr<Program> gradients_, update_;
  std::set<std::string> bf16_weights_;
  double loss_ = 0;
  int32_t step_ = 0;
};

}  // namespace strata::gpu

#endif  // TRAINING_GPU_LARGE_STEP_H_
