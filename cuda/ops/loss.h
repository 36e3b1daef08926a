// CUDA kernels: cross-entropy, and the targets of multi-token prediction.

#ifndef CUDA_OPS_LOSS_H_
#define CUDA_OPS_LOSS_H_

#include "cuda/runtime/kernel.h"
#include "cuda_runtime_api.h"

namespace strata::gpu {

// *loss = the mean of nll [t] over the tokens that have a target [t]; 0 if none
// has. Only enqueues, and so does the next.
cudaError_t MeanLoss(const Operand& target, const float* nll, float* loss,
                     cudaStream_t stream);

// *share = *dloss over the number of tokens that have a target, 1 at least.
cudaError_t ShareOfTarget(const Operand& target, const float* dloss,
                          float* share, cudaStream_t stream);

void RegisterLossKernels(KernelRegistry& kernels);

}  // namespace strata::gpu

#endif  // CUDA_OPS_LOSS_H_
