#include "tools/strata/cuda_device.h"

#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "core/base/status_macros.h"
#include "core/runtime/backend.h"
#include "cuda/ops/all_kernels.h"
#include "cuda/runtime/cuda_backend.h"

namespace strata {

absl::StatusOr<std::unique_ptr<Backend>> MakeCudaBackend(
    const std::string& precision) {
  gpu::CudaOptions options;
  if (precision == "tf32") options.precision = gpu::Precision::kTf32;
  if (precision == "bf16") options.precision = gpu::Precision::kBf16;
  ASSIGN_OR_RETURN(std::unique_ptr<Backend> backend,
                   gpu::CudaBackend::Create(options, gpu::AllCudaKernels()));
  return backend;
}

}  // namespace strata
