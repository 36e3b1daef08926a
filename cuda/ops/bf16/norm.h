// RmsNorm (core/ops/norm.h) and its gradients where rows other than x are BF16.

#ifndef CUDA_OPS_BF16_NORM_H_
#define CUDA_OPS_BF16_NORM_H_

#include "cuda/runtime/kernel.h"
#include "cuda_runtime_api.h"

namespace strata::gpu {

// The operators' contexts: x is F32 and y BF16; dy and dx are F32 or BF16. The
// gain has a multiple of 8 elements; others are refused.
cudaError_t RmsNormToBf16(const KernelContext& ctx);
cudaError_t RmsNormInputGradMixed(const KernelContext& ctx);
cudaError_t RmsNormWeightGradMixed(const KernelContext& ctx);

}  // namespace strata::gpu

#endif  // CUDA_OPS_BF16_NORM_H_
