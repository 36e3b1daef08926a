// CUDA kernels: SwiGLU, sigmoid, masked softmax, and their gradients.

#ifndef CUDA_OPS_ACTIVATION_H_
#define CUDA_OPS_ACTIVATION_H_

#include "cuda/runtime/kernel.h"
#include "cuda_runtime_api.h"

namespace strata::gpu {

void RegisterActivationKernels(KernelRegistry& kernels);

// Kernels that composite operators take as parts.
cudaError_t RunSigmoid(const KernelContext& ctx);
cudaError_t RunSwiGlu(const KernelContext& ctx);
cudaError_t RunMaskedSoftmax(const KernelContext& ctx);

}  // namespace strata::gpu

#endif  // CUDA_OPS_ACTIVATION_H_
