// CUDA kernel: core/ops/weight_grad_sum.h, a weight's gradient added to its sum
// where it lies, F32 or BF16. Products of BF16 operands in the tensor cores add
// in registers and round once; others go through an F32 gradient in scratch.

#ifndef CUDA_OPS_BF16_WEIGHT_GRAD_SUM_H_
#define CUDA_OPS_BF16_WEIGHT_GRAD_SUM_H_

#include "cuda/runtime/kernel.h"

namespace strata::gpu {

void RegisterWeightGradSumKernels(KernelRegistry& kernels);

}  // namespace strata::gpu

#endif  // CUDA_OPS_BF16_WEIGHT_GRAD_SUM_H_
