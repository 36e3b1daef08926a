// CPU kernels of core/ops/embedding.h.

#ifndef CORE_CPU_EMBEDDING_H_
#define CORE_CPU_EMBEDDING_H_

#include "core/runtime/kernel_registry.h"

namespace strata {

void RegisterEmbeddingKernels(KernelRegistry& kernels);

}  // namespace strata

#endif  // CORE_CPU_EMBEDDING_H_
