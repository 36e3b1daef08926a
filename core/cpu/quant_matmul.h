// CPU kernels of core/ops/quant_matmul.h.
//
// Few rows (always, in the batch-invariant kernels): x is rounded to 8 or 16
// bits a row (core/cpu/quant_product.h), whose products with the codes are
// exact. Many rows: tiles of weights are widened, which is exact, and
// multiplied in float as MatMul does.

#ifndef CORE_CPU_QUANT_MATMUL_H_
#define CORE_CPU_QUANT_MATMUL_H_

#include "core/runtime/kernel_registry.h"

namespace strata {

void RegisterQuantMatMulKernels(KernelRegistry& kernels);

// The same, with rows that do not know each other (core/cpu/batch_invariant.h).
void RegisterBatchInvariantQuantKernels(KernelRegistry& kernels);

}  // namespace strata

#endif  // CORE_CPU_QUANT_MATMUL_H_
