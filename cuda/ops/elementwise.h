// CUDA kernels: sums, scalings, constants, slices of columns.

#ifndef CUDA_OPS_ELEMENTWISE_H_
#define CUDA_OPS_ELEMENTWISE_H_

#include "cuda/runtime/kernel.h"
#include "cuda_runtime_api.h"

namespace strata::gpu {

void RegisterElementwiseKernels(KernelRegistry& kernels);

// Kernels that composite operators take as parts.
cudaError_t RunAddBias(const KernelContext& ctx);
cudaError_t RunAdd(const KernelContext& ctx);

}  // namespace strata::gpu

#endif  // CUDA_OPS_ELEMENTWISE_H_
