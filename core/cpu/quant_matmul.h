// CPU kernels of core/ops/quant_matmul.h and mixed_matmul.h.
//
// x is rounded to 8 or 16 bits a row (core/cpu/quant/quant_product.h), whose
// products with the codes are exact; a few rows row by row, many by panels of
// weights (quant_panel.h), but row by row in the batch-invariant kernels where
// panels add up in another order, which those of VNNI do. Where the
// processor has no AVX2, tiles of weights are widened for many rows, which is
// exact, and multiplied in float as MatMul does.

#ifndef CORE_CPU_QUANT_MATMUL_H_
#define CORE_CPU_QUANT_MATMUL_H_

#include "core/runtime/kernel_registry.h"

namespace strata {

void RegisterQuantMatMulKernels(KernelRegistry& kernels);

// The same, with rows that do not know each other (core/cpu/batch_invariant.h).
void RegisterBatchInvariantQuantKernels(KernelRegistry& kernels);

}  // namespace strata

#endif  // CORE_CPU_QUANT_MATMUL_H_
