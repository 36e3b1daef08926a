// CPU kernels of core/ops/activation.h.

#ifndef CORE_CPU_ACTIVATION_H_
#define CORE_CPU_ACTIVATION_H_

#include "core/runtime/kernel_registry.h"

namespace strata {

void RegisterActivationKernels(KernelRegistry& kernels);

}  // namespace strata

#endif  // CORE_CPU_ACTIVATION_H_
