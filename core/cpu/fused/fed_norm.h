// CPU kernels of core/ops/fed_norm.h: in the order of the operators that it
// stands for, so that bits are the same.

#ifndef CORE_CPU_FUSED_FED_NORM_H_
#define CORE_CPU_FUSED_FED_NORM_H_

#include "core/runtime/kernel_registry.h"

namespace strata {

// The reference of the GPU's. The trainer does not make it here.
void RegisterFedNormKernels(KernelRegistry& kernels);

}  // namespace strata

#endif  // CORE_CPU_FUSED_FED_NORM_H_
