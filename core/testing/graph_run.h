// A small graph, built, filled and run on the CPU backend: what tests of
// kernels look like. By hand, with values of the kernels' own types:
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
//
// Or in one call that reads the same for every dtype, all numbers as doubles:
//
//   const auto result = RunGraph(
//       DType::kF32, /*num_threads=*/2, {RegisterElementwiseKernels}, build,
//       [](const std::string& name, const TensorView& view) {
//         if (name == "x") Copy({1, 2}, view);
//       });
//   ASSERT_THAT(result, IsOk());
//   EXPECT_THAT(result->at("y"), ElementsAre(3, 6));

#ifndef CORE_TESTING_GRAPH_RUN_H_
#define CORE_TESTING_GRAPH_RUN_H_

#include <algorithm>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "core/base/check.h"
#include "core/cpu/cpu_backend.h"
#include "core/graph/builder.h"
#include "core/graph/graph.h"
#include "core/runtime/kernel_registry.h"
#include "core/runtime/program.h"
#include "core/runtime/state_store.h"
#include "core/tensor/dtype.h"
#include "core/tensor/tensor.h"

namespace strata {

// Elements by the name of an output, a parameter or a state, as they stand
// after a run; in double, which holds every dtype that kernels make exactly.
using RunResult = std::map<std::string, std::vector<double>>;

// Fills a source, all of which start as zeros.
using FillSource = std::function<void(const std::string&, const TensorView&)>;

struct GraphRunOptions {
  DType compute = DType::kF32;
  int num_threads = 2;
};

class GraphRun {
 public:
  // Builds and compiles; what failed is what Run() returns.
  GraphRun(const std::function<void(GraphBuilder&)>& build,
           const std::vector<void (*)(KernelRegistry&)>& kernels,
           const GraphRunOptions& options = {});

  // Fills the first elements of an input, a parameter or a state. Does nothing
  // if the graph was not built.
  template <typename T>
  void Set(absl::string_view name, const std::vector<T>& values) {
    if (program_ == nullptr) return;
    const TensorView view = Source(name);
    CHECK(static_cast<int64_t>(values.size()) <= view.num_elements())
        << values.size() << " values for " << name << " of "
        << view.num_elements();
    std::copy(values.begin(), values.end(), view.as<T>());
  }

  // Calls `fill` for every input, parameter and state. Does nothing if the
  // graph was not built.
  void SetAll(const FillSource& fill);

  absl::Status Run() { return status_.ok() ? program_->Run() : status_; }

  // An output of the latest run, or else a state.
  template <typename T>
  std::vector<T> Get(absl::string_view name) const {
    const bool is_output = program_->graph().outputs().contains(name);
    const TensorView view =
        is_output ? program_->Output(name) : state_.Get(name);
    return {view.as<T>(), view.as<T>() + view.num_elements()};
  }

  // Every output of the latest run, parameter and state.
  RunResult GetAll() const;

  Program& program() { return *program_; }

 private:
  TensorView Source(absl::string_view name) const {
    return program_->HasInput(name) ? program_->Input(name) : state_.Get(name);
  }

  CpuBackend backend_;
  StateStore state_;
  absl::Status status_;
  std::unique_ptr<Program> program_;
};

// Builds, fills and runs once.
absl::StatusOr<RunResult> RunGraph(
    DType compute, int num_threads,
    const std::vector<void (*)(KernelRegistry&)>& kernels,
    const std::function<void(GraphBuilder&)>& build, const FillSource& fill);

// Copies `values` into `view`, whatever its dtype; sizes must agree or `view`
// be larger.
void Copy(absl::Span<const double> values, const TensorView& view);

// `n` standard normal numbers that float holds exactly, the same for F32 and
// F64 runs.
std::vector<double> Normal(int64_t n, uint32_t seed);

}  // namespace strata

#endif  // CORE_TESTING_GRAPH_RUN_H_
