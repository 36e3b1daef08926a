// CUDA kernels: products with quantised weights, dense and an expert
// (core/ops/quant_matmul.h), over rows packed as the CPU has them.
//
// In `fp32` and `tf32` nothing is rounded. In `bf16` rows of x are, and where
// there are many of them (of an expert) the weights, too, as F32 weights are.

#ifndef CUDA_OPS_QUANT_MATMUL_H_
#define CUDA_OPS_QUANT_MATMUL_H_

#include "cuda/runtime/kernel.h"
#include "cuda_runtime_api.h"

namespace strata::gpu {

void RegisterQuantMatMulKernels(KernelRegistry& kernels);

// Kernels that composite operators take as parts.
cudaError_t RunQuantMatMul(const KernelContext& ctx);
cudaError_t RunQuantGroupedMatMul(const KernelContext& ctx);

}  // namespace strata::gpu

#endif  // CUDA_OPS_QUANT_MATMUL_H_
