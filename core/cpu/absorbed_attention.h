// CPU kernels of LatentQuery and LatentOutput (core/ops/absorbed_attention.h).
// RegisterAttentionKernels registers them with its own.

#ifndef CORE_CPU_ABSORBED_ATTENTION_H_
#define CORE_CPU_ABSORBED_ATTENTION_H_

#include "core/runtime/kernel_registry.h"

namespace strata {

void RegisterAbsorbedAttentionKernels(KernelRegistry& kernels);

}  // namespace strata

#endif  // CORE_CPU_ABSORBED_ATTENTION_H_
