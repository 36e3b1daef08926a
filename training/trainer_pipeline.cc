// A trainer's pipeline: the stages that its rank holds.

#include <algorithm>
#include <numeric>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "core/base/status_macros.h"
#include "core/parallel/mesh.h"
#include "core/parallel/pipeline_schedule.h"
#include "core/passes/partition/partition_experts.h"
#include "core/runtime/program_part.h"
#include "core/trace/router_tap.h"
#include "training/pipeline/pipeline_plan.h"
#include "training/pipeline/stage_runner.h"
#include "training/program_inputs.h"
#include "training/stage_routers.h"
#include "training/step_graph.h"
#include "training/trainer.h"

namespace strata {

absl::Status Trainer::BuildPipeline() {
  ASSIGN_OR_RETURN(
      PipelineSchedule schedule,
      PlanPipeline({options_.schedule, options_.chunks}, Place().shape,
                   EndMicroBatch() - FirstMicroBatch(), model_.num_layers()));
  stages_ = StagesOf(schedule, Place().pp_rank);
  num_stages_ = schedule.num_stages;
  std::vector<StepGraph> steps;  // By chunk.
  for (const int stage : stages_) {
    ASSIGN_OR_RETURN(
        StepGraph step,
        GradientGraph(Place().OfStage(stage, num_stages_), GradientSums()));
    if (options_.expose_tokens) {
      ExposeTokens(step.graph, RoutersIn(step.graph, step.routers));
    }
    steps.push_back(std::move(step));
  }
  if (EndsAreApart(options_.schedule)) tied_ = steps[0].tied;
  std::vector<StepGraph> last;
  if (SumsInGradients()) {
    ASSIGN_OR_RETURN(last, LastOfStages(steps, schedule));
  }
  ASSIGN_OR_RETURN(
      pipeline_,
      StageRunner::Create(steps, std::move(schedule), *backend_, *state_,
                          options_.mesh->pp(), last, JoinsPairs()));
  for (const ProgramPart& part : pipeline_->parts()) {
    FillLayout(part, train_.batch_size(), train_.seq_len());
  }
  routers_ = std::move(steps[0].routers);
  // By stage, which two ranks that hold the same have in one order.
  std::vector<int> chunks(steps.size());
  std::iota(chunks.begin(), chunks.end(), 0);
  std::sort(chunks.begin(), chunks.end(),
            [&](int a, int b) { return stages_[a] < stages_[b]; });
  for (const int chunk : chunks) {
    for (Shard& shard : steps[chunk].shards) {
      shards_.push_back(std::move(shard));
    }
    stage_graphs_.push_back(std::move(steps[chunk].graph));
  }
  return absl::OkStatus();
}

std::vector<Program*> Trainer::gradient_programs() const {
  if (pipeline_ == nullptr) return {gradients_.get()};
  std::vector<Program*> programs;
  for (const ProgramPart& part : pipeline_->parts()) {
    Program* const program = &part.program();
    if (std::find(programs.begin(), programs.end(), program) ==
        programs.end()) {  // A pair's has two parts.
      programs.push_back(program);
    }
  }
  return programs;
}

bool Trainer::JoinsPairs() const {
  return options_.overlap_rows && options_.join_pairs && Place().shape.ep > 1;
}

// The stages' graphs, by chunk, with the sums that each begins when it ends.
absl::StatusOr<std::vector<StepGraph>> Trainer::LastOfStages(
    const std::vector<StepGraph>& steps,
    const PipelineSchedule& schedule) const {
  std::vector<const Graph*> graphs;
  std::vector<Shard> shards;
  for (const StepGraph& step : steps) {
    graphs.push_back(&step.graph);
    shards.insert(shards.end(), step.shards.begin(), step.shards.end());
  }
  const ParameterOwners owners =
      OwnersOf(graphs, shards, Place(), SumsToOwners());
  GradientSums sums = SumsWithin();
  sums.owners = &owners;
  sums.elsewhere = UpdateSums().LeavesToUpdate();
  std::vector<int> chunks =
      ChunksByEnd(LastWeightGrads(schedule, Place().pp_rank));
  std::reverse(chunks.begin(), chunks.end());
  std::vector<StepGraph> last(steps.size());
  for (const int chunk : chunks) {
    ASSIGN_OR_RETURN(
        last[chunk],
        GradientGraph(Place().OfStage(stages_[chunk], num_stages_), sums));
    // What it shares with a stage that ends before is whole with it only.
    for (const ValueId id : Parameters(steps[chunk].graph)) {
      sums.elsewhere.insert(steps[chunk].graph.value(id).name);
    }
  }
  return last;
}

}  // namespace strata
