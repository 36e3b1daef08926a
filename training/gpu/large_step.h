// A training step of a large model on one GPU, with random weights made there:
// the graphs that the trainer runs, without its data and checkpoints.

#ifndef TRAINING_GPU_LARGE_STEP_H_
#define TRAINING_GPU_LARGE_STEP_H_

#include <cstdint>
#include <memory>
#include <set>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "core/model/config.pb.h"
#include "core/runtime/program.h"
#include "core/runtime/state_store.h"
#include "cuda/runtime/cuda_backend.h"
#include "training/config.pb.h"

namespace strata::gpu {

class LargeStep {
 public:
  // `train` says how: seq_len, batch_size sequences a micro-batch, accumulation
  // of them a step, state_precision; products are BF16.
  //
  // Returns RESOURCE_EXHAUSTED, with what was wanted, before anything runs, if
  // the GPU has too little memory.
  static absl::StatusOr<std::unique_ptr<LargeStep>> Create(
      const ModelConfig& model, const TrainConfig& train);

  // The micro-batches, all of the same random tokens as the step before: their
  // loss falls. Then Update().
  absl::Status Gradients();
  absl::Status Update();

  double loss() const { return loss_; }  // The mean of the last Gradients().
  int64_t tokens() const;                // Of a step.
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

 private:
  LargeStep(const ModelConfig& model, const TrainConfig& train)
      : model_(model), train_(train) {}

  absl::Status Compile();
  absl::Status FillState();

  const ModelConfig model_;
  const TrainConfig train_;
  std::unique_ptr<CudaBackend> backend_;
  std::unique_ptr<StateStore> state_;
  std::unique_ptr<Program> gradients_, update_;
  std::set<std::string> bf16_weights_;
  double loss_ = 0;
  int32_t step_ = 0;
};

}  // namespace strata::gpu

#endif  // TRAINING_GPU_LARGE_STEP_H_
