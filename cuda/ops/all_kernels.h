// Every CUDA kernel, registered.

#ifndef CUDA_OPS_ALL_KERNELS_H_
#define CUDA_OPS_ALL_KERNELS_H_

#include "cuda/runtime/kernel_table.h"

namespace strata::gpu {

KernelTable AllCudaKernels();

}  // namespace strata::gpu

#endif  // CUDA_OPS_ALL_KERNELS_H_
