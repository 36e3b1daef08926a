// FewExperts (few_experts.h) by packed weights on Hopper, in one launch.

#ifndef CUDA_OPS_DECODE_SM90_PACKED_EXPERTS_H_
#define CUDA_OPS_DECODE_SM90_PACKED_EXPERTS_H_

#include "cuda/ops/decode/few_experts.h"
#include "cuda_runtime_api.h"

namespace strata::gpu {

// Whether there is a kernel, of arguments that HasFewExperts(): weights packed
// in one format, of whose tiles shared memory holds three beside what tokens
// have; a counter, a Hopper GPU.
bool HasStreamedPackedExperts(const FewExpertsArgs& args);
cudaError_t StreamedPackedExperts(const FewExpertsArgs& args,
                                  cudaStream_t stream);

}  // namespace strata::gpu

#endif  // CUDA_OPS_DECODE_SM90_PACKED_EXPERTS_H_
