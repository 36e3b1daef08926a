// Kernels for operands that are F32 or BF16 in memory.

#ifndef CUDA_OPS_BF16_WITH_TYPE_H_
#define CUDA_OPS_BF16_WITH_TYPE_H_

#include <type_traits>

#include "cuda/runtime/kernel.h"
#include "cuda_bf16.h"

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

// launch(null pointer to the operand's element type).
template <typename Launch>
void WithType(const Operand& operand, Launch launch) {
  if (operand.element_size == 2) {
    launch(static_cast<__nv_bfloat16*>(nullptr));
  } else {
    launch(static_cast<float*>(nullptr));
  }
}
template <typename P>
using ElementOf = std::remove_pointer_t<P>;

}  // namespace strata::gpu

#endif  // CUDA_OPS_BF16_WITH_TYPE_H_
