// CUDA kernels: accumulation, gradient norm, AdamW.

#ifndef CUDA_OPS_OPTIMIZER_H_
#define CUDA_OPS_OPTIMIZER_H_

#include "cuda/runtime/kernel.h"

namespace strata::gpu {

void RegisterOptimizerKernels(KernelRegistry& kernels);

}  // namespace strata::gpu

#endif  // CUDA_OPS_OPTIMIZER_H_
