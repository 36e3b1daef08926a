// CUDA kernels: from scores to the experts of each token.

#ifndef CUDA_OPS_GATE_SELECT_H_
#define CUDA_OPS_GATE_SELECT_H_

#include "cuda/runtime/kernel.h"

namespace strata::gpu {

void RegisterGateSelectKernels(KernelRegistry& kernels);

}  // namespace strata::gpu

#endif  // CUDA_OPS_GATE_SELECT_H_
