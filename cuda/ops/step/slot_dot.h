// CUDA kernel: SlotDot (core/ops/slot_dot.h), of rows in F32 or BF16.

#ifndef CUDA_OPS_STEP_SLOT_DOT_H_
#define CUDA_OPS_STEP_SLOT_DOT_H_

#include "cuda/runtime/kernel.h"

namespace strata::gpu {

void RegisterSlotDotKernels(KernelRegistry& kernels);

}  // namespace strata::gpu

#endif  // CUDA_OPS_STEP_SLOT_DOT_H_
