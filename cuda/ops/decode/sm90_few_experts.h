// FewExperts (few_experts.h) by BF16 weights on Hopper, in one launch.

#ifndef CUDA_OPS_DECODE_SM90_FEW_EXPERTS_H_
#define CUDA_OPS_DECODE_SM90_FEW_EXPERTS_H_

#include "cuda/ops/decode/few_experts.h"
#include "cuda_runtime_api.h"

namespace strata::gpu {

// Whether there is a kernel, of arguments that HasFewExperts(): BF16 weights, a
// counter, a Hopper GPU.
bool HasStreamedExperts(const FewExpertsArgs& args);
cudaError_t StreamedExperts(const FewExpertsArgs& args, cudaStream_t stream);

}  // namespace strata::gpu

#endif  // CUDA_OPS_DECODE_SM90_FEW_EXPERTS_H_
