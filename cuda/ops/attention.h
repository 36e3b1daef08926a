// CUDA kernels: causal attention over packed sequences, and its gradient.

#ifndef CUDA_OPS_ATTENTION_H_
#define CUDA_OPS_ATTENTION_H_

#include "cuda/runtime/kernel.h"

namespace strata::gpu {

void RegisterAttentionKernels(KernelRegistry& kernels);

}  // namespace strata::gpu

#endif  // CUDA_OPS_ATTENTION_H_
