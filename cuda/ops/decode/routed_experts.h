// CUDA kernels: RoutedExperts and NormMlp of core/ops/fused_experts.h.

#ifndef CUDA_OPS_DECODE_ROUTED_EXPERTS_H_
#define CUDA_OPS_DECODE_ROUTED_EXPERTS_H_

#include "cuda/runtime/kernel.h"

namespace strata::gpu {

void RegisterRoutedExpertsKernels(KernelRegistry& kernels);

}  // namespace strata::gpu

#endif  // CUDA_OPS_DECODE_ROUTED_EXPERTS_H_
