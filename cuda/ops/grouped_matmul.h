// CUDA kernels: products an expert, over rows grouped by expert.

#ifndef CUDA_OPS_GROUPED_MATMUL_H_
#define CUDA_OPS_GROUPED_MATMUL_H_

#include "cuda/kernels/grouped_product.h"
#include "cuda/runtime/kernel.h"
#include "cuda_runtime_api.h"

namespace strata::gpu {

void RegisterGroupedMatMulKernels(KernelRegistry& kernels);

// Kernels that composite operators take as parts.
cudaError_t RunGroupedMatMul(const KernelContext& ctx);

// dw [E, n, k], F32: dw[e] = dy rows^T x rows, of the rows that `offset` [E +
// 1] gives e. dy [rows, n] and x [rows, k] are F32 or BF16.
cudaError_t WeightGradByExpert(const KernelContext& ctx, const Operand& dy,
                               const Operand& x, const Operand& offset,
                               float* dw);

// Whether such gradients are summed in the tensor cores.
bool SumsInTensorCores(const KernelContext& ctx, int64_t n, int64_t k,
                       int64_t num_experts);

// The same there, of operands rounded to BF16; `grad` says where to and how.
cudaError_t WeightGradRounded(const KernelContext& ctx, const Operand& dy,
                              const Operand& x, const Operand& offset,
                              GroupedWeightGradArgs grad);

}  // namespace strata::gpu

#endif  // CUDA_OPS_GROUPED_MATMUL_H_
