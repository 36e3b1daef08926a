// CUDA kernels: rows grouped by expert, and back; rows by index.

#ifndef CUDA_OPS_DISPATCH_H_
#define CUDA_OPS_DISPATCH_H_

#include "cuda/runtime/kernel.h"
#include "cuda_runtime_api.h"

namespace strata::gpu {

void RegisterDispatchKernels(KernelRegistry& kernels);

// Kernels that composite operators take as parts.
cudaError_t RunDispatchRows(const KernelContext& ctx);
cudaError_t RunCombineRows(const KernelContext& ctx);
cudaError_t RunAddRows(const KernelContext& ctx);

}  // namespace strata::gpu

#endif  // CUDA_OPS_DISPATCH_H_
