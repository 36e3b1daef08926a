// CPU kernels of core/ops/elementwise.h.

#ifndef CORE_CPU_ELEMENTWISE_H_
#define CORE_CPU_ELEMENTWISE_H_

#include "core/runtime/kernel_registry.h"

namespace strata {

void RegisterElementwiseKernels(KernelRegistry& kernels);

}  // namespace strata

#endif  // CORE_CPU_ELEMENTWISE_H_
