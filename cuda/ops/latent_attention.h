// CUDA kernels: what latent attention has beside attention itself.

#ifndef CUDA_OPS_LATENT_ATTENTION_H_
#define CUDA_OPS_LATENT_ATTENTION_H_

#include "cuda/runtime/kernel.h"
#include "cuda_runtime_api.h"

namespace strata::gpu {

void RegisterLatentAttentionKernels(KernelRegistry& kernels);

// Kernels that composite operators take as parts.
cudaError_t RunLatentQuery(const KernelContext& ctx);
cudaError_t RunLatentOutput(const KernelContext& ctx);

}  // namespace strata::gpu

#endif  // CUDA_OPS_LATENT_ATTENTION_H_
