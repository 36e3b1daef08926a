// A rank of a pipeline: runs the items of its schedule for one step, each in
// the stage that it is of.
//
//   schedule.items[rank]   F0 F1 F2 B0 F3 ...     of the simulator's schedules
//     |                                           (core/parallel)
//     |  by chunk
//     v
//   Stage 0, Stage 1 ...   training/pipeline/stage.h, of one state: what two of
//                          them share (the tied embedding) they sum into once
//   StagePair              where pairs are joined, of a forward of the one and
//                          gradients of the other
//
// Activations that live at once are as many as the schedule's: one is what a
// stage keeps of a micro-batch.

#ifndef TRAINING_PIPELINE_STAGE_RUNNER_H_
#define TRAINING_PIPELINE_STAGE_RUNNER_H_

#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "core/parallel/communicator.h"
#include "core/parallel/pipeline_schedule.h"
#include "core/runtime/backend.h"
#include "core/runtime/program.h"
#include "core/runtime/program_part.h"
#include "core/runtime/state_store.h"
#include "training/pipeline/stage.h"
#include "training/pipeline/stage_links.h"
#include "training/pipeline/stage_pair.h"
#include "training/pipeline/stash.h"
#include "training/step_graph.h"

namespace strata {

class StageRunner {
 public:
  // `steps`, by chunk, are the gradient graphs of this rank's stages,
  // `schedule` is that of the whole pipeline, one device a rank of `pp`. To be
  // called by all of these. Backend, state and group must outlive the runner.
  // `last`, likewise or empty, are the same with sums over ranks, which each
  // stage begins with its last weight gradients of a step (LastWeightGrads).
  // `joins_pairs`: an item that is a pair is one program, but for one that
  // begins sums; otherwise its forward is run, then its gradients.
  static absl::StatusOr<std::unique_ptr<StageRunner>> Create(
      absl::Span<const StepGraph> steps, PipelineSchedule schedule,
      Backend& backend, StateStore& state, Communicator& pp,
      absl::Span<const StepGraph> last = {}, bool joins_pairs = false);

  // Looks at the outputs of micro-batch `m`, just run forward in that chunk.
  using Look =
      absl::FunctionRef<void(int m, int chunk, const Program& forward)>;

  // One step: gradients of all micro-batches are summed in the states, and
  // these over ranks where Create() was given that.
  absl::Status Run(Stage::Fill fill, Look look);

  // Of all stages, to set inputs that are the same in each step.
  std::vector<ProgramPart> parts() const;
  const PipelineSchedule& schedule() const { return schedule_; }
  const StageLinks& links() const { return *links_; }
  // FLOPs of a step at the counts of the latest micro-batches.
  double StepFlops() const;
  // The most activations that were held at once.
  int most_held() const { return memory_.most_held(); }

 private:
  StageRunner(PipelineSchedule schedule, int rank, Backend& backend,
              StateStore& state);

  // Programs for this rank's pairs.
  absl::Status JoinPairs(absl::Span<const StepGraph> steps, Backend& backend);
  absl::Status RunItems(Stage::Fill fill, Look look);
  // Of an item that is run as one; null: not this one.
  StagePair* PairOf(int item) const;
  absl::Status Backward(int m, int chunk, bool input_grad, bool weight_grad,
                        bool is_last, Stage::Fill fill);
  // Two stages may sum into the same, so that none knows that it is the first.
  absl::Status ClearSums();

  const PipelineSchedule schedule_;
  const int rank_;
  StateStore& state_;
  StashMemory memory_;
  std::unique_ptr<StageLinks> links_;
  std::vector<std::unique_ptr<Stage>> stages_;  // By chunk.
  // By chunk of the forward and of the gradients.
  std::map<std::pair<int, int>, std::unique_ptr<StagePair>> pairs_;
  const std::vector<int> last_;  // LastWeightGrads().
  bool begins_sums_ = false;     // With these.
  // What the stages sum into, where they are several; otherwise none.
  std::vector<std::string> sums_;
  bool begun_ = false;  // Sums of this step.
};

}  // namespace strata

#endif  // TRAINING_PIPELINE_STAGE_RUNNER_H_
