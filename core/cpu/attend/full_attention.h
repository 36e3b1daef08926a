// CPU kernels of core/ops/full_attention.h, F32 and F64.

#ifndef CORE_CPU_ATTEND_FULL_ATTENTION_H_
#define CORE_CPU_ATTEND_FULL_ATTENTION_H_

#include "core/runtime/kernel_registry.h"

namespace strata {

void RegisterFullAttentionKernels(KernelRegistry& kernels);

}  // namespace strata

#endif  // CORE_CPU_ATTEND_FULL_ATTENTION_H_
