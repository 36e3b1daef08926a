// CUDA kernels of core/ops/collective.h and collective_rows.h, for a mesh of
// GPUs.

#ifndef CUDA_NCCL_COLLECTIVE_H_
#define CUDA_NCCL_COLLECTIVE_H_

#include "cuda/runtime/kernel.h"

namespace strata::gpu {

void RegisterCollectiveKernels(KernelRegistry& kernels);

}  // namespace strata::gpu

#endif  // CUDA_NCCL_COLLECTIVE_H_
