// CUDA kernels: attention over caches, in rows and in blocks.

#ifndef CUDA_OPS_CACHED_ATTENTION_H_
#define CUDA_OPS_CACHED_ATTENTION_H_

#include "cuda/runtime/kernel.h"

namespace strata::gpu {

void RegisterCachedAttentionKernels(KernelRegistry& kernels);

}  // namespace strata::gpu

#endif  // CUDA_OPS_CACHED_ATTENTION_H_
