// Operands in the precision that a product wants, whatever they have in memory.

#ifndef CUDA_OPS_BF16_CONVERT_H_
#define CUDA_OPS_BF16_CONVERT_H_

#include "cuda/runtime/kernel.h"
#include "cuda_bf16.h"
#include "cuda_runtime_api.h"

namespace strata::gpu {

// `operand` [rows, columns] in BF16, or in F32: itself, or converted into
// scratch. Rows from the count to the bound are zeros then, in the operand too,
// so that sums over all rows up to the bound are those over the count.
// Only enqueue; return cudaErrorMemoryAllocation if there is no scratch.
cudaError_t Rounded(const KernelContext& ctx, const Operand& operand,
                    const __nv_bfloat16** rounded);
cudaError_t Widened(const KernelContext& ctx, const Operand& operand,
                    const float** widened);

// The same for who knows how many rows count: those behind are whatever was
// there. At an owner of experts the bound is many times the rows.
cudaError_t RoundedRows(const KernelContext& ctx, const Operand& operand,
                        const __nv_bfloat16** rounded);
cudaError_t WidenedRows(const KernelContext& ctx, const Operand& operand,
                        const float** widened);

// Writes an F32 result, which lies in scratch, to `out` in BF16: the rows that
// count.
cudaError_t StoreRounded(const KernelContext& ctx, const float* result,
                         const Operand& out);

}  // namespace strata::gpu

#endif  // CUDA_OPS_BF16_CONVERT_H_
