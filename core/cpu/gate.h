// CPU kernels of core/ops/gate.h.

#ifndef CORE_CPU_GATE_H_
#define CORE_CPU_GATE_H_

#include "core/runtime/kernel_registry.h"

namespace strata {

void RegisterGateKernels(KernelRegistry& kernels);

}  // namespace strata

#endif  // CORE_CPU_GATE_H_
