// CPU kernels of core/ops/optimizer.h.

#ifndef CORE_CPU_OPTIMIZER_H_
#define CORE_CPU_OPTIMIZER_H_

#include "core/runtime/kernel_registry.h"

namespace strata {

void RegisterOptimizerKernels(KernelRegistry& kernels);

}  // namespace strata

#endif  // CORE_CPU_OPTIMIZER_H_
