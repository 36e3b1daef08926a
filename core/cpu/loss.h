// CPU kernels of core/ops/loss.h.

#ifndef CORE_CPU_LOSS_H_
#define CORE_CPU_LOSS_H_

#include "core/runtime/kernel_registry.h"

namespace strata {

void RegisterLossKernels(KernelRegistry& kernels);

}  // namespace strata

#endif  // CORE_CPU_LOSS_H_
