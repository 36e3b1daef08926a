// CUDA kernels: energy signature, weights, load controllers.

#ifndef CUDA_OPS_GATE_H_
#define CUDA_OPS_GATE_H_

#include "cuda/runtime/kernel.h"
#include "cuda_runtime_api.h"

namespace strata::gpu {

void RegisterGateKernels(KernelRegistry& kernels);

// Kernels that composite operators take as parts.
cudaError_t RunSelectedWeight(const KernelContext& ctx);

}  // namespace strata::gpu

#endif  // CUDA_OPS_GATE_H_
