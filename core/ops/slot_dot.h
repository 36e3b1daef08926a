// The gradient of the weights that tokens give their experts, from what experts
// have inside instead of what they make:
//
//   y = h w^T, out = sum of weight y:  dweight = dout . y
//   dh = weight (w^T dout):            dweight = dh . h / weight
//
// so that y, the widest rows of a layer of experts, need not be kept for the
// backward pass. Where a weight is 0 its gradient is taken to be 0: scores that
// small do not move. core/passes/slot_dots.h emits it.

#ifndef CORE_OPS_SLOT_DOT_H_
#define CORE_OPS_SLOT_DOT_H_

#include "core/graph/op_def.h"

namespace strata {

// (dh [rows, f], h [rows, f], slot_row I32 [t, k], weight [t, k])
//   -> dweight [t, k], 0 where slot_row is -1 (core/ops/dispatch.h)
extern const OpDef kSlotDot;

}  // namespace strata

#endif  // CORE_OPS_SLOT_DOT_H_
