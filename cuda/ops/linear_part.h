// Products by weights as composite operators take them: F32, BF16 or packed
// rows, whose format their length says (core/quant/packed_rows.h).

#ifndef CUDA_OPS_LINEAR_PART_H_
#define CUDA_OPS_LINEAR_PART_H_

#include <cstdint>

#include "cuda/kernels/quant_product.h"
#include "cuda/runtime/kernel.h"
#include "cuda_runtime_api.h"

namespace strata::gpu {

// Whether w is packed rows.
bool IsPacked(const Operand& w);

// w [.., n, k] as tiles read it (cuda/ops/decode/weight_rows.h); no data, which
// has no tiles, where w is F32 or in no format.
PackedRows WeightRows(const Operand& w, int64_t k);

// y = x w^T.
cudaError_t RunLinear(const KernelContext& ctx, const Operand& x,
                      const Operand& w, const Operand& y);

// y = residual + x w^T (+ bias), which may be where the residual is.
cudaError_t RunLinearResidual(const KernelContext& ctx, const Operand& x,
                              const Operand& w, const Operand* bias,
                              const Operand& residual, const Operand& y);

// y = x w^T an expert, of rows grouped by `offset` [E + 1].
cudaError_t RunExpertLinear(const KernelContext& ctx, const Operand& x,
                            const Operand& w, const Operand& offset,
                            const Operand& y);

}  // namespace strata::gpu

#endif  // CUDA_OPS_LINEAR_PART_H_
