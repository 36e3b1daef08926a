// CPU kernels of core/ops/matmul.h.

#ifndef CORE_CPU_MATMUL_H_
#define CORE_CPU_MATMUL_H_

#include "core/runtime/kernel_registry.h"

namespace strata {

void RegisterMatMulKernels(KernelRegistry& kernels);

}  // namespace strata

#endif  // CORE_CPU_MATMUL_H_
