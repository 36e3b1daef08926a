// A fault that no data has: a rank that others wait for does not come.

#ifndef CUDA_RUNTIME_PEER_FAULT_H_
#define CUDA_RUNTIME_PEER_FAULT_H_

#include "cuda/runtime/fault.h"

namespace strata::gpu {

// Of rank `place` of the operator's group; `limit` is how many milliseconds it
// was waited for. A number of its own beside those of FaultKind.
constexpr FaultKind kLatePeer = static_cast<FaultKind>(1000);

}  // namespace strata::gpu

#endif  // CUDA_RUNTIME_PEER_FAULT_H_
