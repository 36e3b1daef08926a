// CUDA kernels: sums, scalings, constants, slices of columns.

#ifndef CUDA_OPS_ELEMENTWISE_H_
#define CUDA_OPS_ELEMENTWISE_H_

#include "cuda/runtime/kernel.h"

namespace strata::gpu {

void RegisterElementwiseKernels(KernelRegistry& kernels);

}  // namespace strata::gpu

#endif  // CUDA_OPS_ELEMENTWISE_H_
