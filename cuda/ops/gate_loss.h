// CUDA kernels: what gates are trained by.

#ifndef CUDA_OPS_GATE_LOSS_H_
#define CUDA_OPS_GATE_LOSS_H_

#include "cuda/runtime/kernel.h"

namespace strata::gpu {

void RegisterGateLossKernels(KernelRegistry& kernels);

}  // namespace strata::gpu

#endif  // CUDA_OPS_GATE_LOSS_H_
