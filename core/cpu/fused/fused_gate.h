// CPU kernels of the fused gate of a tier.

#ifndef CORE_CPU_FUSED_FUSED_GATE_H_
#define CORE_CPU_FUSED_FUSED_GATE_H_

#include "core/runtime/kernel_registry.h"

namespace strata {

// ExpertContext and TierGate.
void RegisterFusedGateKernels(KernelRegistry& kernels);

}  // namespace strata

#endif  // CORE_CPU_FUSED_FUSED_GATE_H_
