// CUDA kernels: products an expert, over rows grouped by expert.

#ifndef CUDA_OPS_GROUPED_MATMUL_H_
#define CUDA_OPS_GROUPED_MATMUL_H_

#include "cuda/runtime/kernel.h"
#include "cuda_runtime_api.h"

namespace strata::gpu {

void RegisterGroupedMatMulKernels(KernelRegistry& kernels);

// Kernels that composite operators take as parts.
cudaError_t RunGroupedMatMul(const KernelContext& ctx);

}  // namespace strata::gpu

#endif  // CUDA_OPS_GROUPED_MATMUL_H_
