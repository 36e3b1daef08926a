// One stage of a pipeline, as the rank that holds it runs it.
//
//   forward        messages of earlier stages --> graph --> to later ones
//   input grad     their gradients of later stages --> graph --> to earlier
//   weight grad    nobody waits for it: sums into the states "grad.*"
//
// The three are programs of their own, so that several micro-batches may be on
// their way. What one program makes and a later one reads is in a stash of its
// micro-batch, large values in a frame that the programs are told to use, so
// that nothing is copied; a stash is free again when its last program has run.
//
// Where gradients are summed over ranks beside what the rank still does, the
// weight gradients of a step's last micro-batch have a program of their own,
// which begins the sums and goes on (docs/distributed.md).
//
// A pair of a schedule may run the forward of one stage and all gradients of
// another in a program of its own (training/pipeline/stage_pair.h).

#ifndef TRAINING_PIPELINE_STAGE_H_
#define TRAINING_PIPELINE_STAGE_H_

#include <memory>
#include <string>
#include <vector>

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "core/graph/graph.h"
#include "core/passes/partition/cut_graph.h"
#include "core/runtime/backend.h"
#include "core/runtime/program.h"
#include "core/runtime/program_part.h"
#include "core/runtime/state_store.h"
#include "core/tensor/tensor.h"
#include "training/pipeline/stage_links.h"
#include "training/pipeline/stash.h"
#include "training/step_graph.h"

namespace strata {

class Stage {
 public:
  // What a stage stands on; all must outlive it.
  struct Context {
    const StageLinks& links;
    StashMemory& memory;
    Backend& backend;
    StateStore& state;
  };

  // `step`: the gradient graph of the stage, which is `chunk` of its rank's.
  // `last`: the same with sums (GradientSums), or null.
  static absl::StatusOr<std::unique_ptr<Stage>> Create(const StepGraph& step,
                                                       const StepGraph* last,
                                                       int chunk,
                                                       const Context& context);

  // Sets the inputs that a program has of its own (tokens, targets), for
  // micro-batch `m` of the schedule.
  using Fill =
      absl::FunctionRef<absl::Status(int m, const ProgramPart& program)>;

  // Of a micro-batch in this order; each returns the errors of the programs and
  // of the other stages' ranks.
  absl::Status Forward(int m, Fill fill);
  absl::Status InputGrad(int m, Fill fill);
  // `keep`: adds to the sums that are there; otherwise begins them anew.
  // `is_last`: of a step; begins their sums over ranks, if there are any.
  absl::Status WeightGrad(int m, bool keep, bool is_last, Fill fill);
  // Waits for these sums, where they were begun.
  absl::Status Finish();

  // What Forward() does before and after its program runs, for one that has
  // that of this stage as a part, and uses FrameOf(m).
  absl::Status BeforeForward(int m, Fill fill, const ProgramPart& part);
  absl::Status AfterForward(int m, const ProgramPart& part);
  // Likewise InputGrad() and WeightGrad() together, adding to the sums that are
  // there.
  absl::Status BeforeGrads(int m, Fill fill, const ProgramPart& part);
  absl::Status AfterGrads(int m, const ProgramPart& part);
  // Where large values of such a part are to lie.
  const FrameLayout& layout() const { return layout_; }
  absl::StatusOr<char*> FrameOf(int m);

  // When all stages of the rank are there: has the programs resolved with a
  // first frame, so that what a backend cannot run is told before the first
  // step.
  absl::Status Prepare();

  // Forgets what a step that failed has left.
  void FreeStashes() { stashes_.FreeAll(); }
  const Program& forward() const { return *forward_; }
  std::vector<Program*> programs() const;
  // FLOPs of a micro-batch at the counts of the latest one.
  double MicroBatchFlops() const;

 private:
  Stage(int chunk, const Context& context)
      : chunk_(chunk),
        links_(context.links),
        backend_(context.backend),
        memory_(context.memory),
        stashes_(context.memory) {}

  // Finds what the stage keeps, and where.
  void LayOut(const std::vector<GraphPiece>& pieces);
  // Copies of what `program` gives to later programs and no frame has, and
  // back.
  static void Keep(const ProgramPart& program,
                   const std::vector<std::string>& outputs, Stash& stash);
  static void KeepOne(const std::string& name, const TensorView& view,
                      Stash& stash);
  static void Restore(const Stash& stash, const ProgramPart& program);
  // Gradients of what this stage sent, into the stash, and of what it received.
  absl::Status ReceiveGrads(int m, Stash& stash);
  absl::Status SendGrads(int m, const ProgramPart& program);

  const int chunk_;
  const StageLinks& links_;
  Backend& backend_;
  StashMemory& memory_;
  Stashes stashes_;
  FrameLayout layout_;
  std::vector<StageMessage> received_;
  std::vector<StageMessage> sent_;
  std::unique_ptr<Program> forward_, input_grad_, weight_grad_;
  std::unique_ptr<Program> last_weight_grad_;  // With sums; null: none here.
  // Outputs that later programs read and no frame has.
  std::vector<std::string> kept_forward_, kept_input_grad_;
};

}  // namespace strata

#endif  // TRAINING_PIPELINE_STAGE_H_
