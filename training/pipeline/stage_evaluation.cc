#include "training/pipeline/stage_evaluation.h"

#include <algorithm>
#include <cstdint>
#include <memory>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "core/base/status_macros.h"
#include "core/runtime/backend.h"
#include "core/runtime/program.h"
#include "core/runtime/state_store.h"
#include "training/pipeline/stage_links.h"
#include "training/pipeline/stage_messages.h"
#include "training/step_graph.h"

namespace strata {

absl::StatusOr<std::unique_ptr<StageEvaluation>> StageEvaluation::Create(
    std::vector<StepGraph> steps, const StageLinks* links, int num_ranks,
    Backend& backend, StateStore& state) {
  auto evaluation = std::unique_ptr<StageEvaluation>(
      new StageEvaluation(links, num_ranks, backend));
  for (StepGraph& step : steps) {
    Stage stage;
    stage.received = std::move(step.received);
    stage.sent = std::move(step.sent);
    ASSIGN_OR_RETURN(stage.program,
                     Program::Compile(std::move(step.graph), backend, state));
    ExpectValues(stage.received, *stage.program);
    evaluation->stages_.push_back(std::move(stage));
  }
  return evaluation;
}

absl::Status StageEvaluation::RunStage(int chunk) {
  Stage& stage = stages_[chunk];
  if (links_ == nullptr) return stage.program->Run();
  // Any micro-batch of the chunk: where stages are does not depend on it.
  const StageVisit visit = {/*micro_batch=*/0, chunk};
  RETURN_IF_ERROR(
      ReceiveValues(stage.received, *links_, visit, backend_, *stage.program));
  RETURN_IF_ERROR(stage.program->Run());
  return SendValues(stage.sent, *links_, visit, backend_, *stage.program);
}

absl::Status StageEvaluation::Run(int64_t num_batches, Fill fill, Look look) {
  for (int64_t begin = 0; begin < num_batches; begin += num_ranks_) {
    const int64_t end = std::min(begin + num_ranks_, num_batches);
    for (int chunk = 0; chunk < num_stages(); ++chunk) {
      for (int64_t i = begin; i < end; ++i) {
        RETURN_IF_ERROR(fill(i, *stages_[chunk].program));
        RETURN_IF_ERROR(RunStage(chunk));
        RETURN_IF_ERROR(look(i, chunk, *stages_[chunk].program));
      }
    }
  }
  return absl::OkStatus();
}

}  // namespace strata
