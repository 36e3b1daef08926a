// CUDA kernels of core/ops/fused_experts.h, as far as there are any.

#ifndef CUDA_OPS_FUSED_EXPERTS_H_
#define CUDA_OPS_FUSED_EXPERTS_H_

#include "cuda/runtime/kernel.h"
#include "cuda_runtime_api.h"

namespace strata::gpu {

void RegisterFusedExpertsKernels(KernelRegistry& kernels);

// Kernels that composite operators take as parts.
cudaError_t RunExpertsResidual(const KernelContext& ctx);

}  // namespace strata::gpu

#endif  // CUDA_OPS_FUSED_EXPERTS_H_
