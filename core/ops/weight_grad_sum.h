// The gradient of a weight added to its sum where that lies: a product and
// Accumulate (core/ops/optimizer.h) in one, so that no gradient as large as the
// weight is written and read again.
//
//   sum = keep * sum + dy^T x                         sum [n, k]
//   sum[e] = keep * sum[e] + dy[rows of e]^T x[rows of e]    sum [E, n, k]
//
//   dy [t, n], x [t, k], keep [], offset [E + 1] as GroupedMatMul's
//
// `sum` is F32 or BF16, and so is each of dy and x; keep is F32. Products and
// the sum are F32, rounded once, to the nearest, when stored. Passes emit it
// (core/passes/bf16_training.h); backends may have no kernel.

#ifndef CORE_OPS_WEIGHT_GRAD_SUM_H_
#define CORE_OPS_WEIGHT_GRAD_SUM_H_

#include "core/graph/op_def.h"

namespace strata {

extern const OpDef kSumWeightGrad;  // (sum, dy, x, keep[, offset]) in place

}  // namespace strata

#endif  // CORE_OPS_WEIGHT_GRAD_SUM_H_
