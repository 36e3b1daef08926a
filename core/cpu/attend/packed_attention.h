// CPU kernels of core/ops/packed_cache.h. As with core/cpu/paged_attention.h, a
// token's result is the same bit for bit whichever tokens come with it, and
// wherever its keys lie.

#ifndef CORE_CPU_ATTEND_PACKED_ATTENTION_H_
#define CORE_CPU_ATTEND_PACKED_ATTENTION_H_

#include "absl/status/status.h"
#include "core/runtime/kernel.h"
#include "core/runtime/kernel_registry.h"

namespace strata {

// The kernel of PackedAttention.
absl::Status AttendToPackedCache(const KernelContext& context);

void RegisterPackedAttentionKernels(KernelRegistry& kernels);

}  // namespace strata

#endif  // CORE_CPU_ATTEND_PACKED_ATTENTION_H_
