// CPU kernels of CacheWrite and CachedAttention (core/ops/attention.h).
// RegisterAttentionKernels registers them with its own.

#ifndef CORE_CPU_CACHED_ATTENTION_H_
#define CORE_CPU_CACHED_ATTENTION_H_

#include "core/runtime/kernel_registry.h"

namespace strata {

void RegisterCachedAttentionKernels(KernelRegistry& kernels);

}  // namespace strata

#endif  // CORE_CPU_CACHED_ATTENTION_H_
