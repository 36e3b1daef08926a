// Kernels of the CPU for fused operators with packed weights
// (core/ops/quant_fused.h), which no CPU program has: weights are unpacked, and
// the plain operator's kernel takes them. What the GPU's are held to.

#ifndef CUDA_TESTING_UNPACKED_KERNELS_H_
#define CUDA_TESTING_UNPACKED_KERNELS_H_

#include "core/runtime/kernel_registry.h"

namespace strata::gpu {

void RegisterUnpackedKernels(strata::KernelRegistry& kernels);

}  // namespace strata::gpu

#endif  // CUDA_TESTING_UNPACKED_KERNELS_H_
