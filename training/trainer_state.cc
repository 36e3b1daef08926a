// In which precision a trainer holds weights and what belongs to them.

#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "core/base/status_macros.h"
#include "core/model/gate.h"
#include "core/ops/weight_grad_sum.h"
#include "core/passes/bf16_training.h"
#include "core/tensor/dtype.h"
#include "training/config.pb.h"
#include "training/step_graph.h"
#include "training/trainer.h"

namespace strata {

absl::Status Trainer::ChooseState() {
  if (train_.state_precision() == TrainConfig::FP32) return absl::OkStatus();
  const std::string& precision =
      TrainConfig::StatePrecision_Name(train_.state_precision());
  if (options_.dtype != DType::kF32) {
    return absl::InvalidArgumentError(
        absl::StrCat("train.state_precision is ", precision,
                     ", which is for F32 arithmetic; want FP32 for F64"));
  }
  if (backend_->FindKernel(kSumWeightGrad.name, DType::kBF16) == nullptr) {
    return absl::InvalidArgumentError(absl::StrCat(
        "train.state_precision is ", precision, "; the ", backend_->name(),
        " backend trains with FP32 state only: want FP32, or a GPU"));
  }
  // Of the whole model, wherever its layers are: a weight that two stages hold
  // is the same in both.
  ASSIGN_OR_RETURN(
      const StepGraph forward,
      BuildEvaluationGraph(model_, train_.batch_size(), train_.seq_len(),
                           options_.dtype, RouteSource::kGate, MeshPlace()));
  bf16_weights_ = Bf16Weights(forward.graph);
  if (train_.state_precision() == TrainConfig::FP32_HALVES) {
    weight_state_ = WeightState::kHalves;
  }
  return absl::OkStatus();
}

}  // namespace strata
