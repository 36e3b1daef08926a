// A small graph, built, filled and run on the CPU backend: what tests of
// kernels look like.
//
//   GraphRun run(
//       [](GraphBuilder& b) {
//         const ValueId x = b.Input("x", b.compute(), {Static(2)});
//         b.Output("y", Scale(b, x, 3));
//       },
//       {RegisterElementwiseKernels});
//   run.Set<float>("x", {1, 2});
//   ASSERT_THAT(run.Run(), IsOk());
//   EXPECT_THAT(run.Get<float>("y"), ElementsAre(3, 6));

#ifndef CORE_TESTING_GRAPH_RUN_H_
#define CORE_TESTING_GRAPH_RUN_H_

#include <algorithm>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "core/base/check.h"
#include "core/cpu/cpu_backend.h"
#include "core/graph/builder.h"
#include "core/graph/graph.h"
#include "core/runtime/kernel_registry.h"
#include "core/runtime/program.h"
#include "core/runtime/state_store.h"
#include "core/tensor/tensor.h"

namespace strata {

struct GraphRunOptions {
  DType compute = DType::kF32;
  int num_threads = 2;
};

class GraphRun {
 public:
  // Builds and compiles; what failed is what Run() returns.
  GraphRun(const std::function<void(GraphBuilder&)>& build,
           const std::vector<void (*)(KernelRegistry&)>& kernels,
           const GraphRunOptions& options = {})
      : backend_(options.num_threads, Registry(kernels)), state_(backend_) {
    GraphBuilder b(options.compute);
    build(b);
    absl::StatusOr<Graph> graph = b.Finish();
    status_ = graph.status();
    if (!status_.ok()) return;
    auto program = Program::Compile(*std::move(graph), backend_, state_);
    status_ = program.status();
    if (status_.ok()) program_ = *std::move(program);
  }

  // Fills the first elements of an input, a parameter or a state. Does nothing
  // if the graph was not built.
  template <typename T>
  void Set(absl::string_view name, const std::vector<T>& values) {
    if (program_ == nullptr) return;
    const TensorView view =
        program_->HasInput(name) ? program_->Input(name) : state_.Get(name);
    CHECK(static_cast<int64_t>(values.size()) <= view.num_elements())
        << values.size() << " values for " << name << " of "
        << view.num_elements();
    std::copy(values.begin(), values.end(), view.as<T>());
  }

  absl::Status Run() { return status_.ok() ? program_->Run() : status_; }

  // An output of the latest run, or else a state.
  template <typename T>
  std::vector<T> Get(absl::string_view name) const {
    const bool is_output = program_->graph().outputs().contains(name);
    const TensorView view =
        is_output ? program_->Output(name) : state_.Get(name);
    return {view.as<T>(), view.as<T>() + view.num_elements()};
  }

  Program& program() { return *program_; }

 private:
  static KernelRegistry Registry(
      const std::vector<void (*)(KernelRegistry&)>& kernels) {
    KernelRegistry registry;
    for (const auto add : kernels) add(registry);
    return registry;
  }

  CpuBackend backend_;
  StateStore state_;
  absl::Status status_;
  std::unique_ptr<Program> program_;
};

}  // namespace strata

#endif  // CORE_TESTING_GRAPH_RUN_H_
