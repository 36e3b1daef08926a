// The CUDA backend, in a build that has one.

#ifndef TOOLS_STRATA_CUDA_DEVICE_H_
#define TOOLS_STRATA_CUDA_DEVICE_H_

#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "core/parallel/communicator.h"
#include "core/parallel/mesh.h"
#include "core/runtime/backend.h"

namespace strata {

struct CudaDevice {
  std::string precision = "fp32";  // Or "tf32", "bf16".
  int gpu = 0;
  const Mesh* mesh = nullptr;  // Of several ranks: that of JoinGpus' group.
};

// Returns UNIMPLEMENTED if this build was made without --config=cuda, else the
// errors of CudaBackend::Create.
absl::StatusOr<std::unique_ptr<Backend>> MakeCudaBackend(
    const CudaDevice& device);

// The ranks of `host`, each with its `gpu`, as a group over NCCL.
//
// Returns UNIMPLEMENTED as above, else the errors of NcclCommunicator::Join.
absl::StatusOr<std::unique_ptr<Communicator>> JoinGpus(Communicator& host,
                                                       int gpu,
                                                       absl::Duration timeout);

}  // namespace strata

#endif  // TOOLS_STRATA_CUDA_DEVICE_H_
