// Validation over a pipeline: batches pass the stages forward alone.
//
// A rank with several stages runs them by rounds of as many batches as there
// are ranks in pp: all of a round in its first stage, then in its second, so
// that after the first round nobody waits.

#ifndef TRAINING_PIPELINE_STAGE_EVALUATION_H_
#define TRAINING_PIPELINE_STAGE_EVALUATION_H_

#include <cstdint>
#include <memory>
#include <vector>

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "core/runtime/backend.h"
#include "core/runtime/program.h"
#include "core/runtime/state_store.h"
#include "training/pipeline/stage_links.h"
#include "training/step_graph.h"

namespace strata {

class StageEvaluation {
 public:
  // `steps`, by chunk, are the evaluation graphs of this rank's stages; one
  // graph without messages, and no `links`, where there is no pipeline. Links,
  // backend and state must outlive it.
  static absl::StatusOr<std::unique_ptr<StageEvaluation>> Create(
      std::vector<StepGraph> steps, const StageLinks* links, int num_ranks,
      Backend& backend, StateStore& state);

  // Sets the inputs of batch `i`, and looks at what the stage made of it.
  using Fill = absl::FunctionRef<absl::Status(int64_t i, Program& program)>;
  using Look = absl::FunctionRef<absl::Status(int64_t i, int chunk,
                                              const Program& program)>;

  // Batches 0 to `num_batches` - 1, in every stage in this order. Every rank
  // makes the same calls.
  absl::Status Run(int64_t num_batches, Fill fill, Look look);

  int num_stages() const { return static_cast<int>(stages_.size()); }
  Program& program(int chunk) { return *stages_[chunk].program; }

 private:
  struct Stage {
    std::vector<StageMessage> received;
    std::vector<StageMessage> sent;
    std::unique_ptr<Program> program;
  };

  StageEvaluation(const StageLinks* links, int num_ranks, Backend& backend)
      : links_(links), num_ranks_(num_ranks), backend_(backend) {}

  absl::Status RunStage(int chunk);

  const StageLinks* const links_;
  const int num_ranks_;  // Of pp.
  Backend& backend_;
  std::vector<Stage> stages_;
};

}  // namespace strata

#endif  // TRAINING_PIPELINE_STAGE_EVALUATION_H_
