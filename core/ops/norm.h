// Root-mean-square normalisation of rows.
//
//   rstd[t] = 1 / sqrt(mean(x[t]^2) + eps)
//   y[t]    = x[t] * rstd[t] * gain
//
// With a gain shorter than a row, each group of as many columns is normalised
// by itself (a head's query or key); rstd is then [t, groups].

#ifndef CORE_OPS_NORM_H_
#define CORE_OPS_NORM_H_

#include "core/graph/builder.h"
#include "core/graph/op_def.h"

namespace strata {

extern const OpDef kRmsNorm;            // -> y [t, d], rstd [t]
extern const OpDef kRmsNormWeightGrad;  // (dy, x, gain, rstd) -> dgain [d]

// (dy, x, gain, rstd, a?, b?) -> dx [t, d], to which a, or a + b, is added:
// what a residual's gradient is otherwise (core/passes/add_in_stores.h). b only
// beside a.
extern const OpDef kRmsNormInputGrad;
inline constexpr int kRmsNormInputGradAdd = 4;  // And the one behind it.

// x [t, d], gain [d] or of a divisor of d -> [t, d]
ValueId RmsNorm(GraphBuilder& b, ValueId x, ValueId gain, double eps);

}  // namespace strata

#endif  // CORE_OPS_NORM_H_
