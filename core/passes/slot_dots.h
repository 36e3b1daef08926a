// A training step that does not keep what experts make for the gradient of
// their weights.
//
//   y = GroupedMatMul(h, w)                  y = GroupedMatMul(h, w)
//   out = CombineRows(y, weight)             out = CombineRows(y, weight)
//   ...                                      ...
//   dy = DispatchRows(dout, weight)          dy = DispatchRows(dout, weight)
//   dweight = RowDot(dout, y)                dh = GroupedMatMul(dy, w^T)
//   dh = GroupedMatMul(dy, w^T)              dweight = SlotDot(dh, h, weight)
//
// y is free from CombineRows on, and rows are read that are as wide as an
// expert is inside (core/ops/slot_dot.h).

#ifndef CORE_PASSES_SLOT_DOTS_H_
#define CORE_PASSES_SLOT_DOTS_H_

#include "core/graph/graph.h"

namespace strata {

// `gradients` is the gradient graph of a step (training/step_graph.h). Values
// keep their ids. A RowDot stays whose y no product of experts makes, or whose
// result is read before dh is there.
Graph UseSlotDots(const Graph& gradients);

}  // namespace strata

#endif  // CORE_PASSES_SLOT_DOTS_H_
