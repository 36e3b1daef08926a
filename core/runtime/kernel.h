// A kernel: the function that runs one node on one backend.

#ifndef CORE_RUNTIME_KERNEL_H_
#define CORE_RUNTIME_KERNEL_H_

#include <cstdint>

#include "absl/status/status.h"
#include "absl/types/span.h"
#include "core/base/thread_pool.h"
#include "core/graph/graph.h"
#include "core/runtime/scratch.h"
#include "core/tensor/tensor.h"

namespace strata {

class Mesh;

// Everything a kernel may touch. Shapes are those of this run: ragged extents
// hold their counts, not their bounds. An optional input that is absent has no
// data. A kernel that makes a count (an I32 scalar output) writes it; outputs
// ragged by that count come with their bound, and rows past the count are left
// alone.
//
// Results must not depend on the number of threads of the pool: split the work
// into pieces of a size fixed by the shapes alone, and sum in a fixed order.
struct KernelContext {
  const Node& node;
  absl::Span<const TensorView> inputs;
  absl::Span<const TensorView> outputs;
  ThreadPool& pool;
  Scratch& scratch;  // Memory that lasts until the kernel returns.
  // The ranks that run this program together; null: this one is alone.
  const Mesh* mesh = nullptr;

  const Attrs& attrs() const { return node.attrs; }
  const TensorView& in(int i) const { return inputs[i]; }
  const TensorView& out(int i) const { return outputs[i]; }
  bool has(int i) const {
    return i < static_cast<int>(inputs.size()) && inputs[i].data != nullptr;
  }
};

// Returns INVALID_ARGUMENT for data that cannot be (a token id out of range);
// shapes were checked when the graph was built.
using Kernel = absl::Status (*)(const KernelContext& context);

}  // namespace strata

#endif  // CORE_RUNTIME_KERNEL_H_
