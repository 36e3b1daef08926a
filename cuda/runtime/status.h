// CUDA's error codes as absl::Status: what the first .cc above a kernel
// returns.

#ifndef CUDA_RUNTIME_STATUS_H_
#define CUDA_RUNTIME_STATUS_H_

#include "absl/status/status.h"
#include "cuda_runtime_api.h"

namespace strata::gpu {

// Returns OK for cudaSuccess. Otherwise RESOURCE_EXHAUSTED for want of device
// memory, INVALID_ARGUMENT for an argument out of range, UNAVAILABLE where
// there is no usable GPU, else INTERNAL; the message is CUDA's name and
// description.
absl::Status ToStatus(cudaError_t error);

// Returns whether this process can run kernels.
bool HasDevice();

}  // namespace strata::gpu

#endif  // CUDA_RUNTIME_STATUS_H_
