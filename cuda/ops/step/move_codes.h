// CUDA kernel: a step of codes, scales and zeros that are learned
// (core/ops/move_codes.h), as the CPU's to the last bit but for the order of
// its two sums over a group, which are in double.

#ifndef CUDA_OPS_STEP_MOVE_CODES_H_
#define CUDA_OPS_STEP_MOVE_CODES_H_

#include "cuda/runtime/kernel.h"

namespace strata::gpu {

void RegisterMoveCodesKernels(KernelRegistry& kernels);

}  // namespace strata::gpu

#endif  // CUDA_OPS_STEP_MOVE_CODES_H_
