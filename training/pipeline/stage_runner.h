// A stage of a pipeline: runs the items of its schedule for one step, with its
// neighbours' values in and its own out.
//
//   forward        messages of earlier stages --> graph --> to later ones
//   input grad     their gradients of later stages --> graph --> to earlier
//   weight grad    nobody waits for it: sums into the states "grad.*"
//
// The three are programs of their own, so that several micro-batches may be on
// their way. What one program makes and a later one reads is copied to a stash
// of its micro-batch, and from there; a stash is taken again when its last
// program has run. Those that live at once are as many as the schedule's
// activations (core/parallel/pipeline_schedule.h). Where kernels have memory of
// their own, large values stay in it, from the sender's to the receiver's; only
// small ones, such as losses and counts, pass through the host's copies.

#ifndef TRAINING_PIPELINE_STAGE_RUNNER_H_
#define TRAINING_PIPELINE_STAGE_RUNNER_H_

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "core/parallel/communicator.h"
#include "core/parallel/pipeline_schedule.h"
#include "core/runtime/backend.h"
#include "core/runtime/program.h"
#include "core/runtime/state_store.h"
#include "core/tensor/tensor.h"
#include "training/step_graph.h"

namespace strata {

// That StageRunner can run the schedule.
//
// Returns UNIMPLEMENTED for those in which a device has several chunks of
// layers, and the errors of CheckPipelineShape().
absl::Status CheckRunnable(const PipelineShape& shape);

// Lets ReceiveValues() fill `program`'s inputs of those names. Before its first
// run.
void ExpectValues(const std::vector<StageMessage>& messages, Program& program);
// Receives the values of `messages` into `program`'s inputs of those names.
absl::Status ReceiveValues(const std::vector<StageMessage>& messages,
                           Backend& backend, Communicator& pp,
                           Program& program);
// Sends `program`'s outputs of those names.
absl::Status SendValues(const std::vector<StageMessage>& messages,
                        const Program& program, Backend& backend,
                        Communicator& pp);

class StageRunner {
 public:
  // `step` is the gradient graph of this rank's stage, `schedule` that of the
  // whole pipeline. Backend, state and group must outlive it.
  static absl::StatusOr<std::unique_ptr<StageRunner>> Create(
      const StepGraph& step, PipelineSchedule schedule, Backend& backend,
      StateStore& state, Communicator& pp);

  // Sets the inputs that a program has of its own (tokens, targets), for
  // micro-batch `m` of the schedule.
  using Fill = absl::FunctionRef<absl::Status(int m, Program& program)>;
  // Looks at the outputs of micro-batch `m`, just run forward.
  using Look = absl::FunctionRef<void(int m, const Program& forward)>;

  // One step: gradients of all micro-batches are summed in the states.
  absl::Status Run(Fill fill, Look look);

  // To set inputs that are the same in each step.
  std::vector<Program*> programs() const;
  const PipelineSchedule& schedule() const { return schedule_; }
  // FLOPs of a step at the counts of the latest micro-batches.
  double StepFlops() const;
  // The most micro-batches whose activations were held at once.
  int most_held() const { return static_cast<int>(stashes_.size()); }

 private:
  struct Kept {
    std::unique_ptr<Memory> memory;  // Of the backend, if it is a large value,
    std::vector<char> host;          // and else here.
    int64_t num_bytes = 0;
  };
  // Values of one micro-batch, by name. Memory is kept when it is taken anew.
  struct Stash {
    int micro_batch = -1;  // -1: free.
    std::map<std::string, Kept> values;
  };

  StageRunner(PipelineSchedule schedule, Backend& backend, Communicator& pp)
      : schedule_(std::move(schedule)), backend_(backend), pp_(pp) {}

  void ExpectKept();
  Stash& StashOf(int micro_batch);
  // Room in the stash for `num_bytes` of a value of that type.
  absl::StatusOr<Kept*> RoomFor(const std::string& name, const ValueType& type,
                                int64_t num_bytes, Stash& stash);
  // Copies of what `program` gives to later programs, and back.
  absl::Status Keep(const Program& program,
                    const std::vector<std::string>& outputs, Stash& stash);
  absl::Status KeepOne(const std::string& name, const ValueType& type,
                       const TensorView& view, Stash& stash);
  absl::Status Restore(const Stash& stash, Program& program);
  absl::Status Forward(int m, Fill fill, Look look);
  absl::Status InputGrad(int m, Fill fill);
  absl::Status WeightGrad(int m, Fill fill);

  const PipelineSchedule schedule_;
  Backend& backend_;
  Communicator& pp_;
  std::vector<StageMessage> received_;
  std::vector<StageMessage> sent_;
  std::unique_ptr<Program> forward_, input_grad_, weight_grad_;
  // Outputs that later programs read.
  std::vector<std::string> kept_forward_, kept_input_grad_;
  std::vector<std::unique_ptr<Stash>> stashes_;
  bool any_weight_grad_ = false;  // In this step.
};

}  // namespace strata

#endif  // TRAINING_PIPELINE_STAGE_RUNNER_H_
