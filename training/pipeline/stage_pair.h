// A pair of a schedule as one program: the forward of one of a rank's stages
// and all gradients of another, each of a micro-batch of its own.
//
//   messages in   values for the forward | gradients of what the other sent
//   program       both graphs (core/passes/join_graphs.h): exchanges of rows of
//                 the one beside the work of the other
//   messages out  values of the forward | gradients of what the other received
//
// An item that waits for both, as the schedule has it: no rank waits within it
// but for ranks of its groups, which run the same items in the same order. The
// gradients are of the stage's stash; between input and weight gradients
// nothing is kept. Its arena is that of both graphs, beside those of the
// stages.

#ifndef TRAINING_PIPELINE_STAGE_PAIR_H_
#define TRAINING_PIPELINE_STAGE_PAIR_H_

#include <memory>
#include <vector>

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "core/graph/graph.h"
#include "core/passes/hide_exchanges.h"
#include "core/runtime/backend.h"
#include "core/runtime/program.h"
#include "core/runtime/program_part.h"
#include "core/runtime/state_store.h"
#include "training/pipeline/stage.h"
#include "training/step_graph.h"

namespace strata {

// Of the names of the gradients' inputs and outputs; those of the forward are
// as in its graph, so that who looks at a stage's forward may look at a pair's.
inline constexpr char kBackwardPrefix[] = "backward.";

// The forward of one gradient graph and the gradients of another.
//
// Returns the errors of JoinGraphs().
absl::StatusOr<Graph> PairGraph(const Graph& forward, const Graph& backward,
                                double flops_per_wire_byte = kFlopsPerWireByte);

class StagePair {
 public:
  // A stage and its gradient graph. All must outlive the pair, but the graphs.
  struct Half {
    const StepGraph& step;
    Stage& stage;
  };

  // Returns the errors of PairGraph() and Program::Compile().
  static absl::StatusOr<std::unique_ptr<StagePair>> Create(const Half& forward,
                                                           const Half& backward,
                                                           Backend& backend,
                                                           StateStore& state);

  // Runs the forward of `m`, looks at its program, and the gradients of
  // `backward_m`, which are added to the sums that are there.
  absl::Status Run(int m, int backward_m, Stage::Fill fill,
                   absl::FunctionRef<void(const Program& forward)> look);

  // Of the forward and of the gradients.
  std::vector<ProgramPart> parts() const { return {forward(), backward()}; }

 private:
  StagePair(Stage& forward, Stage& backward)
      : forward_stage_(forward), backward_stage_(backward) {}

  ProgramPart forward() const;
  ProgramPart backward() const;

  Stage& forward_stage_;
  Stage& backward_stage_;
  std::unique_ptr<Program> program_;
};

}  // namespace strata

#endif  // TRAINING_PIPELINE_STAGE_PAIR_H_
