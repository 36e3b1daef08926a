// CPU kernels of the fused operators of attention.

#ifndef CORE_CPU_FUSED_FUSED_ATTENTION_H_
#define CORE_CPU_FUSED_FUSED_ATTENTION_H_

#include "core/runtime/kernel_registry.h"

namespace strata {

// RopeTable, NormQkv and the four AttendProjects.
void RegisterFusedAttentionKernels(KernelRegistry& kernels);

}  // namespace strata

#endif  // CORE_CPU_FUSED_FUSED_ATTENTION_H_
