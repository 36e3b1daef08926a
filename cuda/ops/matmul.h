// CUDA kernels: dense products.

#ifndef CUDA_OPS_MATMUL_H_
#define CUDA_OPS_MATMUL_H_

#include "cuda/runtime/kernel.h"
#include "cuda_runtime_api.h"

namespace strata::gpu {

void RegisterMatMulKernels(KernelRegistry& kernels);

// Kernels that composite operators take as parts.
cudaError_t RunMatMul(const KernelContext& ctx);

}  // namespace strata::gpu

#endif  // CUDA_OPS_MATMUL_H_
