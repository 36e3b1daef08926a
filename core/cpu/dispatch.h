// CPU kernels of core/ops/dispatch.h.

#ifndef CORE_CPU_DISPATCH_H_
#define CORE_CPU_DISPATCH_H_

#include "core/runtime/kernel_registry.h"

namespace strata {

void RegisterDispatchKernels(KernelRegistry& kernels);

}  // namespace strata

#endif  // CORE_CPU_DISPATCH_H_
