// CPU kernel of the fused input of latent attention.

#ifndef CORE_CPU_FUSED_FUSED_LATENT_H_
#define CORE_CPU_FUSED_FUSED_LATENT_H_

#include "core/runtime/kernel_registry.h"

namespace strata {

// LatentQkv.
void RegisterFusedLatentKernels(KernelRegistry& kernels);

}  // namespace strata

#endif  // CORE_CPU_FUSED_FUSED_LATENT_H_
