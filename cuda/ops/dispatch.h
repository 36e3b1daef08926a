// CUDA kernels: rows grouped by expert, and back; rows by index.

#ifndef CUDA_OPS_DISPATCH_H_
#define CUDA_OPS_DISPATCH_H_

#include "cuda/runtime/kernel.h"

namespace strata::gpu {

void RegisterDispatchKernels(KernelRegistry& kernels);

}  // namespace strata::gpu

#endif  // CUDA_OPS_DISPATCH_H_
