// CUDA kernels: accumulation, gradient norm, AdamW; of state in F32 or BF16.
//
// Where a sum, a parameter or a moment is BF16, all arithmetic on an element is
// F32 and it is rounded once, when it is stored: sums to the nearest;
// parameters and moments at random, up in as many cases of 65536 as what is cut
// off is of a unit in the last place, so that updates of less than that are not
// lost but right on average. The random bits are a function of the step and of
// the element's place, so that a step can be repeated bit for bit.

#ifndef CUDA_OPS_OPTIMIZER_H_
#define CUDA_OPS_OPTIMIZER_H_

#include "cuda/runtime/kernel.h"

namespace strata::gpu {

void RegisterOptimizerKernels(KernelRegistry& kernels);

}  // namespace strata::gpu

#endif  // CUDA_OPS_OPTIMIZER_H_
