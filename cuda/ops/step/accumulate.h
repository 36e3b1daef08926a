// CUDA kernels of sums of gradients over micro-batches, and of loads: of all
// nodes of a call (cuda/runtime/together.h) in few launches.

#ifndef CUDA_OPS_STEP_ACCUMULATE_H_
#define CUDA_OPS_STEP_ACCUMULATE_H_

#include "cuda/runtime/kernel.h"
#include "cuda_runtime_api.h"

namespace strata::gpu {

// sum = *keep sum + value, as many elements as sum has, which is F32 or BF16.
// Where *keep is 0 what sum held is forgotten, NaN too. Only enqueues.
cudaError_t AddToSum(const Operand& sum, const float* value, const float* keep,
                     cudaStream_t stream);

// Accumulate and AccumulateCounts.
void RegisterAccumulateKernels(KernelRegistry& kernels);

}  // namespace strata::gpu

#endif  // CUDA_OPS_STEP_ACCUMULATE_H_
