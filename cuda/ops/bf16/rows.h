// Operators over rows of which some are BF16 in memory and others F32: dispatch
// and its kin, SwiGLU and its gradient. Sums and products are F32.
//
// They take their operators' contexts, as the F32 kernels of cuda/ops do, and
// are called where an operand is BF16 (HasBf16). Columns are multiples of 8;
// others are refused.

#ifndef CUDA_OPS_BF16_ROWS_H_
#define CUDA_OPS_BF16_ROWS_H_

#include "cuda/runtime/kernel.h"
#include "cuda_runtime_api.h"

namespace strata::gpu {

// Whether one of the operands is BF16. (Flags have one byte, integers four.)
inline bool HasBf16(const KernelContext& ctx) {
  for (int i = 0; i < ctx.num_inputs; ++i) {
    if (ctx.has(i) && ctx.in(i).element_size == 2) return true;
  }
  for (int i = 0; i < ctx.num_outputs; ++i) {
    if (ctx.out(i).element_size == 2) return true;
  }
  return false;
}

cudaError_t DispatchMixedRows(const KernelContext& ctx);
cudaError_t CombineMixedRows(const KernelContext& ctx);
cudaError_t RowDotMixed(const KernelContext& ctx);
cudaError_t SwiGluMixed(const KernelContext& ctx);
cudaError_t SwiGluGradMixed(const KernelContext& ctx);

}  // namespace strata::gpu

#endif  // CUDA_OPS_BF16_ROWS_H_
