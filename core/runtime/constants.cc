#include "core/runtime/constants.h"

#include <algorithm>
#include <memory>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "core/base/status_macros.h"
#include "core/graph/graph.h"
#include "core/passes/fold_constants.h"
#include "core/runtime/backend.h"
#include "core/runtime/program.h"
#include "core/runtime/state_store.h"
#include "core/tensor/tensor.h"

namespace strata {

absl::StatusOr<std::unique_ptr<Constants>> Constants::TakeOut(
    Graph& graph, Backend& backend, StateStore& state) {
  FoldedGraph folded = FoldConstants(graph);
  std::unique_ptr<Program> program;
  if (!folded.constants.nodes().empty()) {
    ASSIGN_OR_RETURN(
        program, Program::Compile(std::move(folded.constants), backend, state));
    graph = std::move(folded.rest);
  }
  return std::unique_ptr<Constants>(new Constants(std::move(program), state));
}

absl::Status Constants::Update() {
  if (program_ == nullptr) return absl::OkStatus();
  RETURN_IF_ERROR(program_->Run());
  for (const auto& [name, value] : program_->graph().outputs()) {
    const TensorView made = program_->Output(name);
    std::copy_n(static_cast<const char*>(made.data), made.num_bytes(),
                static_cast<char*>(state_.Get(name).data));
  }
  return absl::OkStatus();
}

}  // namespace strata
