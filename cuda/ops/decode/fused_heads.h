// CUDA kernels: attention over heads of keys and values as fused operators have
// it (core/ops/fused_attention.h).

#ifndef CUDA_OPS_DECODE_FUSED_HEADS_H_
#define CUDA_OPS_DECODE_FUSED_HEADS_H_

#include "cuda/runtime/kernel.h"

namespace strata::gpu {

void RegisterFusedHeadsKernels(KernelRegistry& kernels);

}  // namespace strata::gpu

#endif  // CUDA_OPS_DECODE_FUSED_HEADS_H_
