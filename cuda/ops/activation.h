// CUDA kernels: SwiGLU, sigmoid, masked softmax, and their gradients.

#ifndef CUDA_OPS_ACTIVATION_H_
#define CUDA_OPS_ACTIVATION_H_

#include "cuda/runtime/kernel.h"

namespace strata::gpu {

void RegisterActivationKernels(KernelRegistry& kernels);

}  // namespace strata::gpu

#endif  // CUDA_OPS_ACTIVATION_H_
