// CPU kernels of core/ops/attention.h.

#ifndef CORE_CPU_ATTENTION_H_
#define CORE_CPU_ATTENTION_H_

#include "core/runtime/kernel_registry.h"

namespace strata {

void RegisterAttentionKernels(KernelRegistry& kernels);

}  // namespace strata

#endif  // CORE_CPU_ATTENTION_H_
