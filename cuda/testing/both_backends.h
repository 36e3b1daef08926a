// A graph on the GPU and on the CPU, which must agree: how kernels are tested.
//
//   EXPECT_THAT(CompareBackends(
//                   [](GraphBuilder& b) {
//                     const ValueId h = b.Input("h", DType::kF32,
//                                               {Static(33), Static(64)});
//                     return std::vector<ValueId>{SwiGlu(b, h)};
//                   },
//                   {/*roundings=*/12}),
//               IsOk());
//
// What `build` returns is differentiated by every input and parameter of
// floating point, so that one graph holds an operator and its gradients.

#ifndef CUDA_TESTING_BOTH_BACKENDS_H_
#define CUDA_TESTING_BOTH_BACKENDS_H_

#include <cstdint>
#include <functional>
#include <map>
#include <set>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "core/graph/builder.h"
#include "core/graph/graph.h"
#include "core/tensor/tensor.h"
#include "cuda/runtime/kernel.h"

namespace strata::gpu {

// Fills a source; false leaves it to the harness, which makes floats normal
// and all else zero.
using FillFn = std::function<bool(const std::string& name, const TensorView&)>;

// What inputs, parameters and state hold before a run, by name, at the bound of
// their rows.
using Sources = std::map<std::string, std::vector<double>>;

struct CompareOptions {
  // How many roundings, each of half a unit in the last place of a float (or of
  // `Precision`'s operands), of the largest magnitude in a tensor, an element
  // of it may be off: the terms of its longest sum, and what follows.
  double roundings = 8;
  FillFn fill;
  uint32_t seed = 1;
  Precision precision = Precision::kF32;
  // For tensors whose elements are differences of terms that may be larger than
  // all of them: the largest size of such terms, of which roundings are then; 0
  // for other tensors.
  std::function<double(const std::string& name, const Sources& sources)> terms =
      nullptr;
  // What the GPU runs in place of what the CPU does, with the same sources and
  // outputs: an operator that stands for several. Null: the same.
  std::function<std::vector<ValueId>(GraphBuilder&)> on_gpu = nullptr;
  // Parameters that the GPU has in BF16, in its graph with gradients, and the
  // CPU in F32: `fill` gives them values that both can hold.
  std::set<std::string> bf16_on_gpu = {};
  // States in bytes that are numbers in BF16, to be compared as floats are.
  std::set<std::string> bf16_states = {};
};

// Runs the graph three times on the GPU (operator by operator over poisoned
// memory, captured, replayed), which must agree bit for bit, and once on the
// CPU. Compares all outputs, gradients and state: integers exactly, NaN never.
//
// Returns INTERNAL that names the first element which differs; the status of
// the CPU's run where that fails, if the GPU fails with the same code.
absl::Status CompareBackends(
    const std::function<std::vector<ValueId>(GraphBuilder&)>& build,
    const CompareOptions& options);

// Up to `n` elements of an I32 input, from 0: for fills.
bool FillInts(const TensorView& view, const std::vector<int32_t>& values);

}  // namespace strata::gpu

#endif  // CUDA_TESTING_BOTH_BACKENDS_H_
