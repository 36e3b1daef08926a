// CUDA kernels: from scores to the experts of each token.

#ifndef CUDA_OPS_GATE_SELECT_H_
#define CUDA_OPS_GATE_SELECT_H_

#include "cuda/runtime/kernel.h"
#include "cuda_runtime_api.h"

namespace strata::gpu {

void RegisterGateSelectKernels(KernelRegistry& kernels);

// Kernels that composite operators take as parts.
cudaError_t RunTopKSelect(const KernelContext& ctx);

}  // namespace strata::gpu

#endif  // CUDA_OPS_GATE_SELECT_H_
