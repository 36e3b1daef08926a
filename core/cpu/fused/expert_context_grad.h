// The CPU kernel of ExpertContext's gradient.

#ifndef CORE_CPU_FUSED_EXPERT_CONTEXT_GRAD_H_
#define CORE_CPU_FUSED_EXPERT_CONTEXT_GRAD_H_

#include "core/runtime/kernel_registry.h"

namespace strata {

void RegisterExpertContextGradKernels(KernelRegistry& kernels);

}  // namespace strata

#endif  // CORE_CPU_FUSED_EXPERT_CONTEXT_GRAD_H_
