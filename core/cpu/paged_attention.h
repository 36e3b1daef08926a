// CPU kernels of core/ops/paged_attention.h. A token's result is the same bit
// for bit whichever tokens come with it, of its own sequence or of others, and
// wherever its blocks lie.

#ifndef CORE_CPU_PAGED_ATTENTION_H_
#define CORE_CPU_PAGED_ATTENTION_H_

#include "absl/status/status.h"
#include "core/runtime/kernel.h"
#include "core/runtime/kernel_registry.h"

namespace strata {

// The kernels of PagedAttention and PagedLatentAttention, F32 and F64.
absl::Status AttendToPages(const KernelContext& context);
absl::Status AttendToLatentPages(const KernelContext& context);

void RegisterPagedAttentionKernels(KernelRegistry& kernels);

}  // namespace strata

#endif  // CORE_CPU_PAGED_ATTENTION_H_
