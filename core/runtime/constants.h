// What no input of a program enters (core/passes/fold_constants.h), made once
// instead of in each run.

#ifndef CORE_RUNTIME_CONSTANTS_H_
#define CORE_RUNTIME_CONSTANTS_H_

#include <memory>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "core/graph/graph.h"
#include "core/runtime/backend.h"
#include "core/runtime/program.h"
#include "core/runtime/state_store.h"

namespace strata {

// Not for several threads.
class Constants {
 public:
  // Takes them out of `graph`, whose program then reads them from `state`.
  // `backend` and `state` must outlive the result.
  //
  // Returns the errors of Program::Compile.
  static absl::StatusOr<std::unique_ptr<Constants>> TakeOut(Graph& graph,
                                                            Backend& backend,
                                                            StateStore& state);

  // Makes them of the parameters as they are now: after `graph` was compiled
  // and before its first run, and whenever parameters have changed.
  absl::Status Update();

 private:
  Constants(std::unique_ptr<Program> program, StateStore& state)
      : program_(std::move(program)), state_(state) {}

  const std::unique_ptr<Program> program_;  // Null: there are none.
  StateStore& state_;
};

}  // namespace strata

#endif  // CORE_RUNTIME_CONSTANTS_H_
