// Kernels of what a decoder runs when it serves, such that a token's values are
// the same bit for bit whatever else is in the batch: for any number of tokens
// beside it, cut in any way into runs.
//
// The operators are those that other kernels run too; a CpuBackend gets one set
// of kernels or the other. Products go through core/cpu/row_products.h. There
// is nothing here that only training needs.

#ifndef CORE_CPU_BATCH_INVARIANT_H_
#define CORE_CPU_BATCH_INVARIANT_H_

#include "core/runtime/kernel_registry.h"

namespace strata {

// MatMul (but for a transposed lhs, which is UNIMPLEMENTED), GroupedMatMul,
// LatentQuery and LatentOutput. Weights of the first two may be BF16, which are
// read in place; a result is that of the same weights in F32 bit for bit.
void RegisterBatchInvariantProducts(KernelRegistry& kernels);

// These, and the kernels that go row by row anyway.
KernelRegistry BatchInvariantCpuKernels();

}  // namespace strata

#endif  // CORE_CPU_BATCH_INVARIANT_H_
