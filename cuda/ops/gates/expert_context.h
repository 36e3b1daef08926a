// CUDA kernels of ExpertContext and its gradient (core/ops/fused_gate.h), each
// of all gates of a call in one launch (cuda/runtime/together.h), a block a
// gate.

#ifndef CUDA_OPS_GATES_EXPERT_CONTEXT_H_
#define CUDA_OPS_GATES_EXPERT_CONTEXT_H_

#include "cuda/runtime/kernel.h"

namespace strata::gpu {

void RegisterExpertContextKernels(KernelRegistry& kernels);
void RegisterExpertContextGradKernels(KernelRegistry& kernels);

}  // namespace strata::gpu

#endif  // CUDA_OPS_GATES_EXPERT_CONTEXT_H_
