// Products of a batch's rows, in BF16, by weights as composite operators take
// them: BF16, in one launch with what follows, or packed rows, small ones in
// one too where they are added to something or are two, else in two or three.

#ifndef CUDA_OPS_BATCH_BATCH_LINEAR_H_
#define CUDA_OPS_BATCH_BATCH_LINEAR_H_

#include <cstdint>

#include "cuda/ops/batch/skinny_product.h"
#include "cuda/runtime/kernel.h"
#include "cuda_bf16.h"
#include "cuda_runtime_api.h"

namespace strata::gpu {

// Tokens of a program that goes this way, at the bound.
constexpr int64_t kMaxBatchTokens = kMaxSkinnyRows;

// y = x w^T, + add if that is not null; or, of SwiGLU, silu(first half) *
// second half, of which there is `rounded` alone.
struct BatchLinear {
  Operand w;  // [n, x's columns]
  float* y = nullptr;
  __nv_bfloat16* rounded = nullptr;  // In place of y.
  const float* add = nullptr;        // With y.
  bool swiglu = false;
  // As SkinnyProductArgs': of RunBatchLinear by a BF16 weight.
  bool x_ahead = false;
};

// `data`, [rows, columns] in BF16, as an operand.
Operand Bf16Matrix(__nv_bfloat16* data, Extent rows, int64_t columns);

// Whether rows of k columns have it: up to kMaxBatchTokens on Hopper, a weight
// that is BF16 or has tiles, all extents multiples of 8.
bool HasBatchLinear(int64_t tokens, int64_t k, const Operand& w, bool swiglu);

// One product.
cudaError_t RunBatchLinear(const KernelContext& ctx, const Operand& x,
                           const BatchLinear& product);
// Two of the same x: one launch where both weights are BF16, or packed and
// small (HasResidentProduct()).
cudaError_t RunBatchLinears(const KernelContext& ctx, const Operand& x,
                            const BatchLinear& first,
                            const BatchLinear& second);

}  // namespace strata::gpu

#endif  // CUDA_OPS_BATCH_BATCH_LINEAR_H_
