// CUDA kernels: root-mean-square normalisation and its gradients.

#ifndef CUDA_OPS_NORM_H_
#define CUDA_OPS_NORM_H_

#include "cuda/runtime/kernel.h"

namespace strata::gpu {

void RegisterNormKernels(KernelRegistry& kernels);

}  // namespace strata::gpu

#endif  // CUDA_OPS_NORM_H_
