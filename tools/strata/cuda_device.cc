#include "tools/strata/cuda_device.h"

#include <memory>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "core/base/status_macros.h"
#include "core/parallel/communicator.h"
#include "core/runtime/backend.h"
#include "cuda/nccl/nccl_communicator.h"
#include "cuda/ops/all_kernels.h"
#include "cuda/runtime/cuda_backend.h"

namespace strata {

absl::StatusOr<std::unique_ptr<Backend>> MakeCudaBackend(
    const CudaDevice& device) {
  gpu::CudaOptions options;
  options.device = device.gpu;
  options.mesh = device.mesh;
  if (device.precision == "tf32") options.precision = gpu::Precision::kTf32;
  if (device.precision == "bf16") options.precision = gpu::Precision::kBf16;
  ASSIGN_OR_RETURN(std::unique_ptr<Backend> backend,
                   gpu::CudaBackend::Create(options, gpu::AllCudaKernels()));
  return backend;
}

absl::StatusOr<std::unique_ptr<Communicator>> JoinGpus(Communicator& host,
                                                       int gpu,
                                                       absl::Duration timeout) {
  ASSIGN_OR_RETURN(std::unique_ptr<Communicator> gpus,
                   gpu::NcclCommunicator::Join(host, gpu, timeout));
  return gpus;
}

}  // namespace strata
