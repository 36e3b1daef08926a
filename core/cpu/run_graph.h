// Runs a small graph once on the CPU backend, for tests of kernels.
//
//   const RunResult result = RunGraph(
//       DType::kF32, /*num_threads=*/2, {RegisterMatMulKernels},
//       [](GraphBuilder& b) { ... b.Output("y", y); },
//       [](const std::string& name, const TensorView& view) { ... });
//   result["y"]  // Its elements, as doubles.

#ifndef CORE_CPU_RUN_GRAPH_H_
#define CORE_CPU_RUN_GRAPH_H_

#include <cstdint>
#include <functional>
#include <map>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "core/graph/builder.h"
#include "core/runtime/kernel_registry.h"
#include "core/tensor/dtype.h"
#include "core/tensor/tensor.h"

namespace strata {

// Elements by the name of an output, a parameter or a state, as they stand
// after the run; in double, which holds every dtype that kernels make exactly.
using RunResult = std::map<std::string, std::vector<double>>;

// Fills a source, all of which start as zeros.
using FillSource = std::function<void(const std::string&, const TensorView&)>;

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

#endif  // CORE_CPU_RUN_GRAPH_H_
