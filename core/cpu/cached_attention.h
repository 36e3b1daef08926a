// CPU kernels of CacheWrite and CachedAttention (core/ops/attention.h).
// RegisterAttentionKernels registers them with its own.

#ifndef CORE_CPU_CACHED_ATTENTION_H_
#define CORE_CPU_CACHED_ATTENTION_H_

#include "absl/status/status.h"
#include "core/runtime/kernel.h"
#include "core/runtime/kernel_registry.h"

namespace strata {

// The kernels of CachedAttention and CachedLatentAttention, F32 and F64.
absl::Status AttendToCache(const KernelContext& context);
absl::Status AttendToLatentCache(const KernelContext& context);

void RegisterCachedAttentionKernels(KernelRegistry& kernels);

}  // namespace strata

#endif  // CORE_CPU_CACHED_ATTENTION_H_
