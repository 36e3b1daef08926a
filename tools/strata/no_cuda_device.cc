#include <memory>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "core/parallel/communicator.h"
#include "core/runtime/backend.h"
#include "tools/strata/cuda_device.h"

namespace strata {
namespace {

absl::Status NoCuda() {
  return absl::UnimplementedError(
      "this strata was built without CUDA; build it with `bazel build -c opt "
      "--config=cuda //tools/strata` for --device=cuda");
}

}  // namespace

absl::StatusOr<std::unique_ptr<Backend>> MakeCudaBackend(
    const CudaDevice& device) {
  return NoCuda();
}

absl::StatusOr<std::unique_ptr<Communicator>> JoinGpus(Communicator& host,
                                                       int gpu,
                                                       absl::Duration timeout) {
  return NoCuda();
}

}  // namespace strata
