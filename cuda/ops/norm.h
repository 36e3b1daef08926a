// CUDA kernels: root-mean-square normalisation and its gradients.

#ifndef CUDA_OPS_NORM_H_
#define CUDA_OPS_NORM_H_

#include "cuda/runtime/kernel.h"
#include "cuda_runtime_api.h"

namespace strata::gpu {

// y = the rows of x over their root mean square, times gain: RmsNorm as a part
// of another operator.
cudaError_t NormRows(const KernelContext& ctx, const Operand& x,
                     const Operand& gain, float eps, const Operand& y);

void RegisterNormKernels(KernelRegistry& kernels);

}  // namespace strata::gpu

#endif  // CUDA_OPS_NORM_H_
