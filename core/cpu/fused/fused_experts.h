// CPU kernels of the fused operators of the feed-forward part.

#ifndef CORE_CPU_FUSED_FUSED_EXPERTS_H_
#define CORE_CPU_FUSED_FUSED_EXPERTS_H_

#include "core/runtime/kernel_registry.h"

namespace strata {

// NormMlp, RoutedExperts and ExpertsResidual.
void RegisterFusedExpertsKernels(KernelRegistry& kernels);

}  // namespace strata

#endif  // CORE_CPU_FUSED_FUSED_EXPERTS_H_
