#include "training/pipeline/stage_runner.h"

#include <cstddef>
#include <memory>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/match.h"
#include "absl/types/span.h"
#include "core/base/check.h"
#include "core/base/status_macros.h"
#include "core/graph/graph.h"
#include "core/model/gate.h"
#include "core/parallel/communicator.h"
#include "core/parallel/pipeline_schedule.h"
#include "core/runtime/backend.h"
#include "core/runtime/program.h"
#include "core/runtime/program_part.h"
#include "core/runtime/state_store.h"
#include "training/pipeline/pipeline_plan.h"
#include "training/pipeline/stage.h"
#include "training/pipeline/stage_links.h"
#include "training/pipeline/stage_pair.h"
#include "training/step_graph.h"

namespace strata {
namespace {

// The states that gradients and loads are summed in.
std::vector<std::string> SumsOf(absl::Span<const StepGraph> steps) {
  std::set<std::string> sums;
  for (const StepGraph& step : steps) {
    for (const Value& value : step.graph.values()) {
      if (value.role != Role::kState) continue;
      if (absl::StartsWith(value.name, GradName("")) ||
          !GateOfLoad(value.name).empty()) {
        sums.insert(value.name);
      }
    }
  }
  return {sums.begin(), sums.end()};
}

}  // namespace

StageRunner::StageRunner(PipelineSchedule schedule, int rank, Backend& backend,
                         StateStore& state)
    : schedule_(std::move(schedule)),
      rank_(rank),
      state_(state),
      memory_(backend),
      last_(LastWeightGrads(schedule_, rank)) {}

absl::StatusOr<std::unique_ptr<StageRunner>> StageRunner::Create(
    absl::Span<const StepGraph> steps, PipelineSchedule schedule,
    Backend& backend, StateStore& state, Communicator& pp,
    absl::Span<const StepGraph> last, bool joins_pairs) {
  CHECK_EQ(schedule.num_devices, pp.size());
  CHECK_EQ(static_cast<int>(steps.size()), schedule.num_chunks);
  auto runner = std::unique_ptr<StageRunner>(
      new StageRunner(std::move(schedule), pp.rank(), backend, state));
  ASSIGN_OR_RETURN(runner->links_, StageLinks::Create(runner->schedule_, pp));
  const Stage::Context context = {*runner->links_, runner->memory_, backend,
                                  state};
  for (const StepGraph& step : steps) {
    const int chunk = static_cast<int>(runner->stages_.size());
    ASSIGN_OR_RETURN(std::unique_ptr<Stage> stage,
                     Stage::Create(step, last.empty() ? nullptr : &last[chunk],
                                   chunk, context));
    runner->stages_.push_back(std::move(stage));
  }
  for (const auto& stage : runner->stages_) RETURN_IF_ERROR(stage->Prepare());
  if (steps.size() > 1) runner->sums_ = SumsOf(steps);
  runner->begins_sums_ = !last.empty();
  if (joins_pairs) RETURN_IF_ERROR(runner->JoinPairs(steps, backend));
  return runner;
}

absl::Status StageRunner::JoinPairs(absl::Span<const StepGraph> steps,
                                    Backend& backend) {
  for (const PipelineItem& item : schedule_.items[rank_]) {
    if (item.kind != PipelineItem::Kind::kForwardBackward) continue;
    const auto half = [&](int chunk) -> StagePair::Half {
      return {steps[chunk], *stages_[chunk]};
    };
    std::unique_ptr<StagePair>& pair =
        pairs_[{item.chunk, item.backward_chunk}];
    if (pair != nullptr) continue;
    ASSIGN_OR_RETURN(
        pair, StagePair::Create(half(item.chunk), half(item.backward_chunk),
                                backend, state_));
  }
  return absl::OkStatus();
}

StagePair* StageRunner::PairOf(int index) const {
  const PipelineItem& item = schedule_.items[rank_][index];
  if (item.kind != PipelineItem::Kind::kForwardBackward) return nullptr;
  if (begins_sums_ && last_[item.backward_chunk] == index) return nullptr;
  const auto it = pairs_.find({item.chunk, item.backward_chunk});
  return it != pairs_.end() ? it->second.get() : nullptr;
}

std::vector<ProgramPart> StageRunner::parts() const {
  std::vector<ProgramPart> all;
  for (const auto& stage : stages_) {
    for (Program* const program : stage->programs()) all.emplace_back(*program);
  }
  for (const auto& [chunks, pair] : pairs_) {
    for (ProgramPart& part : pair->parts()) all.push_back(std::move(part));
  }
  return all;
}

double StageRunner::StepFlops() const {
  std::vector<int> micro_batches(stages_.size(), 0);
  for (const PipelineItem& item : schedule_.items[rank_]) {
    if (item.has_forward()) ++micro_batches[item.chunk];
  }
  double flops = 0;
  for (size_t chunk = 0; chunk < stages_.size(); ++chunk) {
    flops += micro_batches[chunk] * stages_[chunk]->MicroBatchFlops();
  }
  return flops;
}

absl::Status StageRunner::ClearSums() {
  for (const std::string& name : sums_) RETURN_IF_ERROR(state_.Clear(name));
  begun_ = !sums_.empty();
  return absl::OkStatus();
}

absl::Status StageRunner::Backward(int m, int chunk, bool input_grad,
                                   bool weight_grad, bool is_last,
                                   Stage::Fill fill) {
  Stage& stage = *stages_[chunk];
  if (input_grad) RETURN_IF_ERROR(stage.InputGrad(m, fill));
  if (!weight_grad) return absl::OkStatus();
  const bool keep = std::exchange(begun_, true);
  return stage.WeightGrad(m, keep, is_last, fill);
}

absl::Status StageRunner::RunItems(Stage::Fill fill, Look look) {
  const std::vector<PipelineItem>& items = schedule_.items[rank_];
  for (size_t i = 0; i < items.size(); ++i) {
    const PipelineItem& item = items[i];
    if (StagePair* const pair = PairOf(static_cast<int>(i)); pair != nullptr) {
      CHECK(begun_);  // Several stages begin with sums that are clear.
      RETURN_IF_ERROR(pair->Run(item.micro_batch, item.backward_micro_batch,
                                fill, [&](const Program& forward) {
                                  look(item.micro_batch, item.chunk, forward);
                                }));
      continue;
    }
    if (item.has_forward()) {
      Stage& stage = *stages_[item.chunk];
      RETURN_IF_ERROR(stage.Forward(item.micro_batch, fill));
      look(item.micro_batch, item.chunk, stage.forward());
    }
    // Of a pair, the two are of different micro-batches.
    const bool is_pair = item.backward_micro_batch >= 0;
    const int chunk = BackwardChunk(item);
    RETURN_IF_ERROR(
        Backward(is_pair ? item.backward_micro_batch : item.micro_batch, chunk,
                 item.has_input_grad(), item.has_weight_grad(),
                 static_cast<int>(i) == last_[chunk], fill));
  }
  return absl::OkStatus();
}

absl::Status StageRunner::Run(Stage::Fill fill, Look look) {
  RETURN_IF_ERROR(ClearSums());
  for (const auto& stage : stages_) stage->FreeStashes();
  absl::Status status = RunItems(fill, look);
  // Also of a step that failed: what is under way uses the states. In the order
  // in which they were begun.
  for (const int chunk : ChunksByEnd(last_)) {
    status.Update(stages_[chunk]->Finish());
  }
  return status;
}

}  // namespace strata
