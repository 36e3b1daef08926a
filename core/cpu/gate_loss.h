// CPU kernels of core/ops/gate_loss.h.

#ifndef CORE_CPU_GATE_LOSS_H_
#define CORE_CPU_GATE_LOSS_H_

#include "core/runtime/kernel_registry.h"

namespace strata {

void RegisterGateLossKernels(KernelRegistry& kernels);

}  // namespace strata

#endif  // CORE_CPU_GATE_LOSS_H_
