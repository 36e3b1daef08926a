// CUDA kernels: HeadLoss (core/ops/head_loss.h). Logits of a chunk are F32 in
// scratch, 4 chunk_rows vocab bytes, and their gradient takes their place, BF16
// where products are. x and w may be F32 or BF16, and so may dx; dw is F32.

#ifndef CUDA_OPS_STEP_HEAD_LOSS_H_
#define CUDA_OPS_STEP_HEAD_LOSS_H_

#include "cuda/runtime/kernel.h"

namespace strata::gpu {

void RegisterHeadLossKernels(KernelRegistry& kernels);

}  // namespace strata::gpu

#endif  // CUDA_OPS_STEP_HEAD_LOSS_H_
