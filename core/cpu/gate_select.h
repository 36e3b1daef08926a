// CPU kernels of core/ops/gate_select.h.

#ifndef CORE_CPU_GATE_SELECT_H_
#define CORE_CPU_GATE_SELECT_H_

#include "core/runtime/kernel_registry.h"

namespace strata {

void RegisterGateSelectKernels(KernelRegistry& kernels);

}  // namespace strata

#endif  // CORE_CPU_GATE_SELECT_H_
