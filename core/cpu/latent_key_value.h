// CPU kernels of LatentKeyValue and its gradient (core/ops/attention.h).
// RegisterAttentionKernels registers them with its own.

#ifndef CORE_CPU_LATENT_KEY_VALUE_H_
#define CORE_CPU_LATENT_KEY_VALUE_H_

#include "core/runtime/kernel_registry.h"

namespace strata {

void RegisterLatentKeyValueKernels(KernelRegistry& kernels);

}  // namespace strata

#endif  // CORE_CPU_LATENT_KEY_VALUE_H_
