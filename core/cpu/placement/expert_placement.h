// CPU kernels of core/ops/expert_placement.h.

#ifndef CORE_CPU_PLACEMENT_EXPERT_PLACEMENT_H_
#define CORE_CPU_PLACEMENT_EXPERT_PLACEMENT_H_

#include "core/runtime/kernel_registry.h"

namespace strata {

void RegisterExpertPlacementKernels(KernelRegistry& kernels);

}  // namespace strata

#endif  // CORE_CPU_PLACEMENT_EXPERT_PLACEMENT_H_
