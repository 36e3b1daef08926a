// The product of experts' rows with weights of several formats in one tensor
// (core/quant/mixed_rows.h).
//
//   x F32 [t, k], w U8 [bytes], offset I32 [E + 1]  ->  y F32 [t, n]
//
// The same numbers as QuantGroupedMatMul (core/ops/quant_matmul.h), each expert
// in its own format.

#ifndef CORE_OPS_MIXED_MATMUL_H_
#define CORE_OPS_MIXED_MATMUL_H_

#include <cstdint>

#include "core/graph/attrs.h"
#include "core/graph/op_def.h"
#include "core/quant/mixed_rows.h"

namespace strata {

extern const OpDef kMixedGroupedMatMul;  // (x, w, offset) -> y

// Its attributes: "formats", the letters of them, and "n", rows of an expert.
Attrs MixedAttrs(const ExpertFormats& formats, int64_t n);

}  // namespace strata

#endif  // CORE_OPS_MIXED_MATMUL_H_
