// CUDA kernels: rows of a table, and the gradient of the table.

#ifndef CUDA_OPS_EMBEDDING_H_
#define CUDA_OPS_EMBEDDING_H_

#include "cuda/runtime/kernel.h"

namespace strata::gpu {

void RegisterEmbeddingKernels(KernelRegistry& kernels);

}  // namespace strata::gpu

#endif  // CUDA_OPS_EMBEDDING_H_
