// CUDA kernels: energy signature, weights, load controllers.

#ifndef CUDA_OPS_GATE_H_
#define CUDA_OPS_GATE_H_

#include "cuda/runtime/kernel.h"

namespace strata::gpu {

void RegisterGateKernels(KernelRegistry& kernels);

}  // namespace strata::gpu

#endif  // CUDA_OPS_GATE_H_
