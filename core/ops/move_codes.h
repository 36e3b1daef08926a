// A step by which the codes, scales and zeros of a quantised parameter are
// learned (core/quant/straight_through.h), as a node of phase kUpdate behind
// the optimiser's, without gradient.

#ifndef CORE_OPS_MOVE_CODES_H_
#define CORE_OPS_MOVE_CODES_H_

#include <cstdint>

#include "absl/strings/string_view.h"
#include "core/graph/builder.h"
#include "core/graph/graph.h"
#include "core/graph/op_def.h"

namespace strata {

// (w, gradient, position, scale, zero, moments, bits, lr, step) in place: w,
// position, scale, zero and moments
extern const OpDef kMoveCodes;

// A parameter of matrices of equal extents, [rows, columns] each; all states.
struct CodeStates {
  ValueId position = kNone;  // Like the parameter.
  ValueId scale = kNone;     // [all rows, groups]
  ValueId zero = kNone;      // [all rows, groups]
  ValueId moments = kNone;   // [all rows, groups, 4]
  ValueId bits = kNone;      // [matrices] I32, of a code of each: 2, 4 or 8.
};

// Adds those of a parameter of `dims`, in groups of `group` (as in
// QuantFormat), to `b`: "<prefix>position", "<prefix>scale" and so on.
CodeStates AddCodeStates(GraphBuilder& b, absl::string_view prefix,
                         const Dims& dims, int64_t group, int64_t matrices);

struct MoveCodesOptions {
  int64_t group = 32;  // As in QuantFormat, of all matrices.
  bool symmetric = true;
  double beta1 = 0.9;  // Of the moments of scales and zeros.
  double beta2 = 0.95;
  double eps = 1e-8;
};

// A row is MoveRow()'s: `w` is what the optimiser made of the codes' numbers
// and becomes those that they have then. `gradient` is like w; lr [] F32, step
// [] I32 from 1. What bits a matrix has is not checked.
void MoveCodes(GraphBuilder& b, ValueId w, ValueId gradient,
               const CodeStates& states, ValueId lr, ValueId step,
               const MoveCodesOptions& options);

}  // namespace strata

#endif  // CORE_OPS_MOVE_CODES_H_
