#include "training/pipeline/stage_pair.h"

#include <memory>
#include <utility>
#include <vector>

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "core/base/status_macros.h"
#include "core/graph/graph.h"
#include "core/passes/hide_exchanges.h"
#include "core/passes/join_graphs.h"
#include "core/passes/partition/cut_graph.h"
#include "core/runtime/backend.h"
#include "core/runtime/program.h"
#include "core/runtime/program_part.h"
#include "core/runtime/state_store.h"
#include "training/pipeline/stage.h"
#include "training/step_graph.h"

namespace strata {

absl::StatusOr<Graph> PairGraph(const Graph& forward, const Graph& backward,
                                double flops_per_wire_byte) {
  ASSIGN_OR_RETURN(const std::vector<GraphPiece> first, SplitForward(forward));
  ASSIGN_OR_RETURN(const std::vector<GraphPiece> second,
                   SplitForward(backward));
  ASSIGN_OR_RETURN(
      const Graph joined,
      JoinGraphs({first[0].graph, ""}, {second[1].graph, kBackwardPrefix}));
  return HideExchanges(joined, flops_per_wire_byte);
}

absl::StatusOr<std::unique_ptr<StagePair>> StagePair::Create(
    const Half& forward, const Half& backward, Backend& backend,
    StateStore& state) {
  auto pair =
      std::unique_ptr<StagePair>(new StagePair(forward.stage, backward.stage));
  ASSIGN_OR_RETURN(Graph graph,
                   PairGraph(forward.step.graph, backward.step.graph,
                             backend.flops_per_wire_byte()));
  Program::Options options;
  forward.stage.layout().PlaceIn(graph, /*frame=*/0, /*prefix=*/"", options);
  backward.stage.layout().PlaceIn(graph, /*frame=*/1, kBackwardPrefix, options);
  ASSIGN_OR_RETURN(pair->program_, Program::Compile(std::move(graph), backend,
                                                    state, std::move(options)));
  return pair;
}

ProgramPart StagePair::forward() const { return *program_; }

ProgramPart StagePair::backward() const { return {*program_, kBackwardPrefix}; }

absl::Status StagePair::Run(
    int m, int backward_m, Stage::Fill fill,
    absl::FunctionRef<void(const Program& forward)> look) {
  ASSIGN_OR_RETURN(char* const forward_frame, forward_stage_.FrameOf(m));
  ASSIGN_OR_RETURN(char* const backward_frame,
                   backward_stage_.FrameOf(backward_m));
  RETURN_IF_ERROR(program_->UseFrames({forward_frame, backward_frame}));
  RETURN_IF_ERROR(forward_stage_.BeforeForward(m, fill, forward()));
  RETURN_IF_ERROR(backward_stage_.BeforeGrads(backward_m, fill, backward()));
  RETURN_IF_ERROR(program_->Run());
  RETURN_IF_ERROR(forward_stage_.AfterForward(m, forward()));
  look(*program_);
  return backward_stage_.AfterGrads(backward_m, backward());
}

}  // namespace strata
