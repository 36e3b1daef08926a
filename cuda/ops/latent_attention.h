// CUDA kernels: what latent attention has beside attention itself.

#ifndef CUDA_OPS_LATENT_ATTENTION_H_
#define CUDA_OPS_LATENT_ATTENTION_H_

#include "cuda/runtime/kernel.h"

namespace strata::gpu {

void RegisterLatentAttentionKernels(KernelRegistry& kernels);

}  // namespace strata::gpu

#endif  // CUDA_OPS_LATENT_ATTENTION_H_
