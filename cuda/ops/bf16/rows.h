// Operators over rows of which some are BF16 in memory and others F32: dispatch
// and its kin, SwiGLU and its gradient. Sums and products are F32.
//
// They take their operators' contexts, as the F32 kernels of cuda/ops do, and
// are called where an operand is BF16 (HasBf16, with_type.h). Columns are
// multiples of 8; others are refused.

#ifndef CUDA_OPS_BF16_ROWS_H_
#define CUDA_OPS_BF16_ROWS_H_

#include "cuda/runtime/kernel.h"
#include "cuda_runtime_api.h"

namespace strata::gpu {

cudaError_t DispatchMixedRows(const KernelContext& ctx);
cudaError_t CombineMixedRows(const KernelContext& ctx);
cudaError_t RowDotMixed(const KernelContext& ctx);
cudaError_t SwiGluMixed(const KernelContext& ctx);
cudaError_t SwiGluGradMixed(const KernelContext& ctx);
cudaError_t AddMixed(const KernelContext& ctx);

}  // namespace strata::gpu

#endif  // CUDA_OPS_BF16_ROWS_H_
