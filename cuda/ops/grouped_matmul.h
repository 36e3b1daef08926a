// CUDA kernels: products an expert, over rows grouped by expert.

#ifndef CUDA_OPS_GROUPED_MATMUL_H_
#define CUDA_OPS_GROUPED_MATMUL_H_

#include "cuda/runtime/kernel.h"

namespace strata::gpu {

void RegisterGroupedMatMulKernels(KernelRegistry& kernels);

}  // namespace strata::gpu

#endif  // CUDA_OPS_GROUPED_MATMUL_H_
