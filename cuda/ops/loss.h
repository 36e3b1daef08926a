// CUDA kernels: cross-entropy, and the targets of multi-token prediction.

#ifndef CUDA_OPS_LOSS_H_
#define CUDA_OPS_LOSS_H_

#include "cuda/runtime/kernel.h"

namespace strata::gpu {

void RegisterLossKernels(KernelRegistry& kernels);

}  // namespace strata::gpu

#endif  // CUDA_OPS_LOSS_H_
