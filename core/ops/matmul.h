// Dense matrix products.
//
//   c [m, n] = op(a) [m, k] * op(b) [k, n]      op: transpose or nothing
//
// Both of one dtype; beside an F32 `a`, the `b` of a layer (a b^T) may be BF16.

#ifndef CORE_OPS_MATMUL_H_
#define CORE_OPS_MATMUL_H_

#include "core/graph/builder.h"
#include "core/graph/op_def.h"

namespace strata {

extern const OpDef kMatMul;

// a * b with either operand transposed. `m` may be ragged when `a` is not
// transposed; when it is, the summed extent (rows of `a` and `b`) may be.
ValueId MatMul(GraphBuilder& b, ValueId lhs, ValueId rhs,
               bool transpose_lhs = false, bool transpose_rhs = false);

// x [t, in] * w [out, in]^T -> [t, out]: a layer with PyTorch's weight layout.
inline ValueId Linear(GraphBuilder& b, ValueId x, ValueId w) {
  return MatMul(b, x, w, /*transpose_lhs=*/false, /*transpose_rhs=*/true);
}

}  // namespace strata

#endif  // CORE_OPS_MATMUL_H_
