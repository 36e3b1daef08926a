// Rows that are F32 or BF16 in memory, which of them a kernel looks up where it
// runs, the same for all its threads: for operands too many for a kernel for
// each of their types (with_type.h).

#ifndef CUDA_OPS_BF16_EITHER_ROWS_H_
#define CUDA_OPS_BF16_EITHER_ROWS_H_

#include <cstdint>

#include "cuda/runtime/kernel.h"
#ifdef __CUDACC__
#include "cuda/ops/bf16/eight.cuh"
#endif

namespace strata::gpu {

struct EitherRows {
  void* data = nullptr;  // Null: an operand that is absent.
  bool is_bf16 = false;
};

inline EitherRows EitherRowsOf(const Operand& operand) {
  return {operand.data, operand.element_size == 2};
}
// Of an input that may be absent.
inline EitherRows EitherRowsIn(const KernelContext& ctx, int i) {
  return ctx.has(i) ? EitherRowsOf(ctx.in(i)) : EitherRows();
}

#ifdef __CUDACC__
// From element `at` on, aligned to 16 bytes.
__device__ __forceinline__ void Load8(const EitherRows& from, int64_t at,
                                      float (&x)[8]) {
  if (from.is_bf16) {
    Load8(static_cast<const __nv_bfloat16*>(from.data) + at, x);
  } else {
    Load8(static_cast<const float*>(from.data) + at, x);
  }
}
#endif

}  // namespace strata::gpu

#endif  // CUDA_OPS_BF16_EITHER_ROWS_H_
