// CUDA kernels: rotary position embedding.

#ifndef CUDA_OPS_ROPE_H_
#define CUDA_OPS_ROPE_H_

#include "cuda/runtime/kernel.h"

namespace strata::gpu {

void RegisterRopeKernels(KernelRegistry& kernels);

}  // namespace strata::gpu

#endif  // CUDA_OPS_ROPE_H_
