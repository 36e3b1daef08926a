// The CUDA backend, in a build that has one.

#ifndef TOOLS_STRATA_CUDA_DEVICE_H_
#define TOOLS_STRATA_CUDA_DEVICE_H_

#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "core/runtime/backend.h"

namespace strata {

// `precision` is "fp32", "tf32" or "bf16".
//
// Returns UNIMPLEMENTED if this build was made without --config=cuda, else the
// errors of CudaBackend::Create.
absl::StatusOr<std::unique_ptr<Backend>> MakeCudaBackend(
    const std::string& precision);

}  // namespace strata

#endif  // TOOLS_STRATA_CUDA_DEVICE_H_
