// CPU kernels of core/ops/biased_score.h.

#ifndef CORE_CPU_BIASED_SCORE_H_
#define CORE_CPU_BIASED_SCORE_H_

#include "core/runtime/kernel_registry.h"

namespace strata {

void RegisterBiasedScoreKernels(KernelRegistry& kernels);

}  // namespace strata

#endif  // CORE_CPU_BIASED_SCORE_H_
