// Every CPU kernel, registered.

#ifndef CORE_CPU_ALL_KERNELS_H_
#define CORE_CPU_ALL_KERNELS_H_

#include "core/runtime/kernel_registry.h"

namespace strata {

KernelRegistry AllCpuKernels();

}  // namespace strata

#endif  // CORE_CPU_ALL_KERNELS_H_
