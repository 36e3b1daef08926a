// From a choice of experts to rows grouped by expert, and back.
//
//   expert [t, k] --DispatchPlan--> row_slot [rows], slot_row [t, k],
//                                   offset [E + 1], rows []
//   x [t, d]      --DispatchRows--> [rows, d]      expert by expert
//   y [rows, d]   --CombineRows-->  [t, d]         weighted sum per token
//
// Slot s = token * k + j. Rows stand expert by expert, within an expert by
// slot; row r came from slot row_slot[r], and slot s went to row slot_row[s],
// or -1. Expert e owns rows [offset[e], offset[e + 1]).

#ifndef CORE_OPS_DISPATCH_H_
#define CORE_OPS_DISPATCH_H_

#include <cstdint>

#include "core/graph/builder.h"
#include "core/graph/op_def.h"

namespace strata {

extern const OpDef kDispatchPlan;
extern const OpDef kDispatchRows;  // (x, row_slot, slot_row, weight?)
extern const OpDef kCombineRows;   // (y, row_slot, slot_row, weight?, a?, b?)
extern const OpDef kRowDot;        // (dout, y, slot_row) -> dweight [t, k]
extern const OpDef kCompactRows;
extern const OpDef kGatherRows;   // (x, index) -> [n, d]
extern const OpDef kScatterRows;  // (y, index, like) -> [t, d], zero elsewhere
extern const OpDef kAddRows;      // (x, y, index) -> [t, d]

// CombineRows adds a [t, d], then b, to its sums: the residual stream,
// otherwise (core/passes/add_in_stores.h). b only beside a.
inline constexpr int kCombineRowsAdd = 4;  // And the one behind it.

struct DispatchPlanResult {
  ValueId row_slot = kNone;  // I32 [rows <= t * k]
  ValueId slot_row = kNone;  // I32 [t, k]
  ValueId offset = kNone;    // I32 [E + 1]
  ValueId rows = kNone;      // I32 []
};
DispatchPlanResult DispatchPlan(GraphBuilder& b, ValueId expert,
                                int64_t num_experts);

// out[r] = x[row_slot[r] / k], times weight[row_slot[r]] if given.
//   x [t, d], weight [t, k] or kNone -> [rows, d]
ValueId DispatchRows(GraphBuilder& b, ValueId x, const DispatchPlanResult& plan,
                     ValueId weight = kNone);

// out[i] = sum over j of weight[i, j] * y[slot_row[i, j]], in order of j; slots
// of -1 add nothing; without weight, 1.
//   y [rows, d], weight [t, k] or kNone -> [t, d]
ValueId CombineRows(GraphBuilder& b, ValueId y, const DispatchPlanResult& plan,
                    ValueId weight = kNone);

// The tokens that go on: `index` (rows of the block's input; kNone for all of
// them) filtered by stay [t] (U8), in order.
struct Compacted {
  ValueId index = kNone;  // I32 [count <= t]
  ValueId count = kNone;  // I32 []
};
Compacted CompactRows(GraphBuilder& b, ValueId index, ValueId stay);

// x[index]: x [t, d], index I32 [n], each row named once at most -> [n, d]
ValueId GatherRows(GraphBuilder& b, ValueId x, ValueId index);

// x with y[i] added to row index[i]. x [t, d], y [n, d], index I32 [n].
ValueId AddRows(GraphBuilder& b, ValueId x, ValueId y, ValueId index);

}  // namespace strata

#endif  // CORE_OPS_DISPATCH_H_
