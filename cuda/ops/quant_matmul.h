// CUDA kernels: products with quantised weights, dense and an expert
// (core/ops/quant_matmul.h), over rows packed as the CPU has them.
//
// In `fp32` and `tf32` nothing is rounded. In `bf16` rows of x are, and where
// there are many of them (of an expert) the weights, too, as F32 weights are.

#ifndef CUDA_OPS_QUANT_MATMUL_H_
#define CUDA_OPS_QUANT_MATMUL_H_

#include "cuda/runtime/kernel.h"

namespace strata::gpu {

void RegisterQuantMatMulKernels(KernelRegistry& kernels);

}  // namespace strata::gpu

#endif  // CUDA_OPS_QUANT_MATMUL_H_
