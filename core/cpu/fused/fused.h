// CPU kernels of all composite operators.

#ifndef CORE_CPU_FUSED_FUSED_H_
#define CORE_CPU_FUSED_FUSED_H_

#include "core/runtime/kernel_registry.h"

namespace strata {

void RegisterFusedKernels(KernelRegistry& kernels);

}  // namespace strata

#endif  // CORE_CPU_FUSED_FUSED_H_
