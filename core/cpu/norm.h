// CPU kernels of core/ops/norm.h.

#ifndef CORE_CPU_NORM_H_
#define CORE_CPU_NORM_H_

#include "core/runtime/kernel_registry.h"

namespace strata {

void RegisterNormKernels(KernelRegistry& kernels);

}  // namespace strata

#endif  // CORE_CPU_NORM_H_
