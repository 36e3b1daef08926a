// CUDA kernels of core/ops/fused_experts.h, as far as there are any.

#ifndef CUDA_OPS_FUSED_EXPERTS_H_
#define CUDA_OPS_FUSED_EXPERTS_H_

#include "cuda/runtime/kernel.h"

namespace strata::gpu {

void RegisterFusedExpertsKernels(KernelRegistry& kernels);

}  // namespace strata::gpu

#endif  // CUDA_OPS_FUSED_EXPERTS_H_
