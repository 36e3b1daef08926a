// A backend: where programs run. It has memory and kernels.

#ifndef CORE_RUNTIME_BACKEND_H_
#define CORE_RUNTIME_BACKEND_H_

#include <cstdint>
#include <memory>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "core/graph/graph.h"
#include "core/runtime/kernel.h"
#include "core/tensor/dtype.h"
#include "core/tensor/tensor.h"

namespace strata {

// Memory of a backend, zeroed; freed with the object.
class Memory {
 public:
  virtual ~Memory() = default;
  virtual char* data() const = 0;
};

class Backend {
 public:
  virtual ~Backend() = default;

  virtual absl::string_view name() const = 0;

  // Returns RESOURCE_EXHAUSTED if memory runs out.
  virtual absl::StatusOr<std::unique_ptr<Memory>> Allocate(
      int64_t num_bytes) = 0;

  // The kernel that runs `op` on `dtype`; null if there is none.
  virtual Kernel FindKernel(absl::string_view op, DType dtype) const = 0;

  // Runs one node. Shapes are those of this run.
  virtual absl::Status Run(Kernel kernel, const Node& node,
                           absl::Span<const TensorView> inputs,
                           absl::Span<const TensorView> outputs) = 0;
};

}  // namespace strata

#endif  // CORE_RUNTIME_BACKEND_H_
