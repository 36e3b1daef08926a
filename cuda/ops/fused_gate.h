// The CUDA kernel of TierGate (core/ops/fused_gate.h).

#ifndef CUDA_OPS_FUSED_GATE_H_
#define CUDA_OPS_FUSED_GATE_H_

#include "cuda/runtime/kernel.h"

namespace strata::gpu {

void RegisterFusedGateKernels(KernelRegistry& kernels);

}  // namespace strata::gpu

#endif  // CUDA_OPS_FUSED_GATE_H_
