// CPU kernels of core/ops/rope.h.

#ifndef CORE_CPU_ROPE_H_
#define CORE_CPU_ROPE_H_

#include "core/runtime/kernel_registry.h"

namespace strata {

void RegisterRopeKernels(KernelRegistry& kernels);

}  // namespace strata

#endif  // CORE_CPU_ROPE_H_
