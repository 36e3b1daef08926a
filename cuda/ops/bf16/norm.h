// RmsNorm (core/ops/norm.h) of F32 rows whose result is BF16.

#ifndef CUDA_OPS_BF16_NORM_H_
#define CUDA_OPS_BF16_NORM_H_

#include "cuda/runtime/kernel.h"
#include "cuda_runtime_api.h"

namespace strata::gpu {

// The operator's context. The gain has a multiple of 8 elements; others are
// refused.
cudaError_t RmsNormToBf16(const KernelContext& ctx);

}  // namespace strata::gpu

#endif  // CUDA_OPS_BF16_NORM_H_
