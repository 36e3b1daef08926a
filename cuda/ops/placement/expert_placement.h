// CUDA kernels of core/ops/expert_placement.h: gradients of F32, ranks of one
// host.

#ifndef CUDA_OPS_PLACEMENT_EXPERT_PLACEMENT_H_
#define CUDA_OPS_PLACEMENT_EXPERT_PLACEMENT_H_

#include "cuda/runtime/kernel.h"

namespace strata::gpu {

void RegisterExpertPlacementKernels(KernelRegistry& kernels);

}  // namespace strata::gpu

#endif  // CUDA_OPS_PLACEMENT_EXPERT_PLACEMENT_H_
