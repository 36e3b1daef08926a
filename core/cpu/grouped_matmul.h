// CPU kernels of core/ops/grouped_matmul.h.

#ifndef CORE_CPU_GROUPED_MATMUL_H_
#define CORE_CPU_GROUPED_MATMUL_H_

#include "core/runtime/kernel_registry.h"

namespace strata {

void RegisterGroupedMatMulKernels(KernelRegistry& kernels);

}  // namespace strata

#endif  // CORE_CPU_GROUPED_MATMUL_H_
