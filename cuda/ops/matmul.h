// CUDA kernels: dense products.

#ifndef CUDA_OPS_MATMUL_H_
#define CUDA_OPS_MATMUL_H_

#include "cuda/runtime/kernel.h"

namespace strata::gpu {

void RegisterMatMulKernels(KernelRegistry& kernels);

}  // namespace strata::gpu

#endif  // CUDA_OPS_MATMUL_H_
