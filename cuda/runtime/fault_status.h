// What a fault that a kernel reported means, in words.

#ifndef CUDA_RUNTIME_FAULT_STATUS_H_
#define CUDA_RUNTIME_FAULT_STATUS_H_

#include "absl/status/status.h"
#include "cuda/runtime/fault.h"

namespace strata::gpu {

// Says what `fault` found and what was wanted; not of which operator it is.
// INVALID_ARGUMENT for bad data, DEADLINE_EXCEEDED for a rank that has not
// come; OK for none.
absl::Status FaultStatus(const Fault& fault);

}  // namespace strata::gpu

#endif  // CUDA_RUNTIME_FAULT_STATUS_H_
