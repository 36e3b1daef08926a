// CUDA kernels: latent attention's operators of core/ops/fused_latent.h and
// core/ops/fused_attention.h, and RopeTable.

#ifndef CUDA_OPS_DECODE_FUSED_LATENT_H_
#define CUDA_OPS_DECODE_FUSED_LATENT_H_

#include "cuda/runtime/kernel.h"

namespace strata::gpu {

void RegisterFusedLatentKernels(KernelRegistry& kernels);

}  // namespace strata::gpu

#endif  // CUDA_OPS_DECODE_FUSED_LATENT_H_
