// Element by element: sums, scalings, constants, slices of columns.

#ifndef CORE_OPS_ELEMENTWISE_H_
#define CORE_OPS_ELEMENTWISE_H_

#include <cstdint>

#include "core/graph/builder.h"
#include "core/graph/op_def.h"

namespace strata {

extern const OpDef kAdd;
extern const OpDef kAddBias;
extern const OpDef kSumRows;
extern const OpDef kScale;
extern const OpDef kFill;
extern const OpDef kSliceColumns;
extern const OpDef kPlaceColumns;

// x + y, of one type.
ValueId Add(GraphBuilder& b, ValueId x, ValueId y);

// x [t, n] + bias [n], the same to every row.
ValueId AddBias(GraphBuilder& b, ValueId x, ValueId bias);

// The sum of the rows of x [t, n]: [n]. AddBias' gradient; has none itself.
ValueId SumRows(GraphBuilder& b, ValueId x);

// x * factor.
ValueId Scale(GraphBuilder& b, ValueId x, double factor);

// A scalar of the compute dtype that holds `value`: what a gradient starts
// from.
ValueId Fill(GraphBuilder& b, double value);

// Columns [begin, begin + width) of x [t, n].
ValueId SliceColumns(GraphBuilder& b, ValueId x, int64_t begin, int64_t width);

// SliceColumns' gradient: x [t, w] at column `begin` of [t, n], zero elsewhere.
ValueId PlaceColumns(GraphBuilder& b, ValueId x, int64_t begin, int64_t n);

}  // namespace strata

#endif  // CORE_OPS_ELEMENTWISE_H_
