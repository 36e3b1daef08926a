// CPU kernel of expert weights' gradients.

#ifndef CORE_CPU_FUSED_SLOT_DOT_H_
#define CORE_CPU_FUSED_SLOT_DOT_H_

#include "core/runtime/kernel_registry.h"

namespace strata {

// SlotDot: the reference of the GPU's. The trainer does not make it here.
void RegisterSlotDotKernels(KernelRegistry& kernels);

}  // namespace strata

#endif  // CORE_CPU_FUSED_SLOT_DOT_H_
