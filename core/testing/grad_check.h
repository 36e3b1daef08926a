// Gradients by autodiff against central differences, in F64.
//
//   EXPECT_THAT(CheckGradients(
//       [](GraphBuilder& b) -> std::vector<ValueId> {
//         return {MatMul(b, b.Parameter("x", {Static(5), Static(3)}),
//                        b.Parameter("y", {Static(3), Static(4)}))};
//       },
//       {RegisterMatMulKernels, RegisterElementwiseKernels}), IsOk());

#ifndef CORE_TESTING_GRAD_CHECK_H_
#define CORE_TESTING_GRAD_CHECK_H_

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "core/graph/builder.h"
#include "core/graph/graph.h"
#include "core/runtime/kernel_registry.h"
#include "core/tensor/tensor.h"

namespace strata {

// Adds nodes to a builder of F64, declaring inputs and parameters of its own;
// returns the float values whose weighted sum is differentiated.
using BuildFn = std::function<std::vector<ValueId>(GraphBuilder&)>;
// Fills the source called `name` before the graph runs; return false to leave
// it to the default (standard normal floats, zero integers).
using FillFn = std::function<bool(const std::string& name, const TensorView&)>;
using RegisterFn = void (*)(KernelRegistry&);

struct GradCheckOptions {
  FillFn fill;
  uint64_t seed = 1;
  // Central differences of step h are off by h^2 f'''/6 + eps f / h: with f of
  // order 1 and h = 1e-5 both are about 1e-10; sums over many elements and
  // steep functions take two more digits.
  double step = 1e-5;
  double tolerance = 1e-6;  // Of |autodiff - differences| / max(1, |both|).
  int max_probes = 64;      // Elements of each source that are varied.
};

// For L = sum over outputs of sum(output * random weights), compares dL/dx for
// every F64 parameter and F64 input x. Counts and other integer sources get no
// gradient. Returns INTERNAL that names source, element and both numbers where
// they differ, and the error itself where the graph does not build or run.
absl::Status CheckGradients(const BuildFn& build,
                            const std::vector<RegisterFn>& kernels,
                            const GradCheckOptions& options = {});

}  // namespace strata

#endif  // CORE_TESTING_GRAD_CHECK_H_
