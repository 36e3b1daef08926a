// CPU kernel of cross-entropy without logits of all tokens.

#ifndef CORE_CPU_FUSED_FUSED_LOSS_H_
#define CORE_CPU_FUSED_FUSED_LOSS_H_

#include "core/runtime/kernel_registry.h"

namespace strata {

// HeadLoss: the reference of the GPU's. The trainer does not make it here.
void RegisterFusedLossKernels(KernelRegistry& kernels);

}  // namespace strata

#endif  // CORE_CPU_FUSED_FUSED_LOSS_H_
