// CUDA kernels: AdamW, also of weights in halves (core/ops/adamw_halves.h), of
// any number of parameters in one launch.
//
// A node's inputs are those of the operator (core/ops/optimizer.h); a call may
// have those of several nodes, one behind the other, of the same attributes,
// norm, divisor, learning rate and step. Which parameters go together changes
// no bit: an element's arithmetic, and the random bits that BF16 state is
// rounded by (optimizer.h), follow from it, its place in its own parameter, and
// the step.

#ifndef CUDA_OPS_STEP_ADAMW_H_
#define CUDA_OPS_STEP_ADAMW_H_

#include "cuda/runtime/kernel.h"

namespace strata::gpu {

void RegisterAdamWKernels(KernelRegistry& kernels);

}  // namespace strata::gpu

#endif  // CUDA_OPS_STEP_ADAMW_H_
