// Products with quantised weights (core/quant/packed_rows.h).
//
//   x F32 [t, k], w U8 [n, bytes] packed rows of k  ->  y F32 [t, n] = x w^T
//
// The same numbers as MatMul and GroupedMatMul with the weights that w stands
// for, but that a kernel may round x as well; each says how.

#ifndef CORE_OPS_QUANT_MATMUL_H_
#define CORE_OPS_QUANT_MATMUL_H_

#include "core/graph/attrs.h"
#include "core/graph/builder.h"
#include "core/graph/op_def.h"
#include "core/quant/format.h"

namespace strata {

extern const OpDef kQuantMatMul;         // (x, w) -> y
extern const OpDef kQuantGroupedMatMul;  // (x, w [E, n, bytes], offset) -> y

// The attributes of both, and the format that they say.
Attrs QuantAttrs(const QuantFormat& format);
QuantFormat FormatOf(const Attrs& attrs);

// x [t, k] * w^T.
ValueId QuantMatMul(GraphBuilder& b, ValueId x, ValueId w,
                    const QuantFormat& format);

// Rows [offset[e], offset[e + 1]) of x by w[e]^T; offset I32 [E + 1].
ValueId QuantGroupedMatMul(GraphBuilder& b, ValueId x, ValueId w,
                           ValueId offset, const QuantFormat& format);

}  // namespace strata

#endif  // CORE_OPS_QUANT_MATMUL_H_
