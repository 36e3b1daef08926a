// CPU kernels of core/ops/collective.h and core/ops/collective_rows.h.

#ifndef CORE_CPU_COLLECTIVE_H_
#define CORE_CPU_COLLECTIVE_H_

#include "core/runtime/kernel_registry.h"

namespace strata {

void RegisterCollectiveKernels(KernelRegistry& kernels);

}  // namespace strata

#endif  // CORE_CPU_COLLECTIVE_H_
