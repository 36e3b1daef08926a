// One matrix product an expert, over rows grouped by expert.
//
//   x [rows, k] --expert e: rows [offset[e], offset[e+1]) * w[e]--> y [rows, n]

#ifndef CORE_OPS_GROUPED_MATMUL_H_
#define CORE_OPS_GROUPED_MATMUL_H_

#include "core/graph/builder.h"
#include "core/graph/op_def.h"

namespace strata {

extern const OpDef kGroupedMatMul;      // (x, w, offset) -> y
extern const OpDef kGroupedWeightGrad;  // (dy, x, offset) -> dw [E, n, k]

// w [E, n, k] as in Linear (transpose_w, the default): y = x w[e]^T; or not:
// x [rows, n], y = x w[e] [rows, k]. offset I32 [E + 1]. Both of one dtype;
// beside F32 rows, a transposed w may be BF16.
ValueId GroupedMatMul(GraphBuilder& b, ValueId x, ValueId w, ValueId offset,
                      bool transpose_w = true);

}  // namespace strata

#endif  // CORE_OPS_GROUPED_MATMUL_H_
