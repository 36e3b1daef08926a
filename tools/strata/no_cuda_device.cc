#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "core/runtime/backend.h"
#include "tools/strata/cuda_device.h"

namespace strata {

absl::StatusOr<std::unique_ptr<Backend>> MakeCudaBackend(
    const std::string& precision) {
  return absl::UnimplementedError(
      "this strata was built without CUDA; build it with `bazel build -c opt "
      "--config=cuda //tools/strata` for --device=cuda");
}

}  // namespace strata
