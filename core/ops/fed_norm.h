// What a tier reads that is fed by those before it (config.proto, FED), as one
// operator: the norm of the block's input plus that of what was added since.
//
//   before [t, d], rows [t, d]
//     |
//     |  added = rows - before
//     |  x     = before * rstd * gain + added * fed_rstd * fed_gain
//     v
//   x [t, d], rstd [t], fed_rstd [t]      each rstd as RmsNorm's (norm.h)
//
// It stands for Scale, two Add and two RmsNorm, of 12 passes over [t, d], with
// 3; its gradients with 10 for 21, where both of their sums are theirs. `added`
// is made anew by each.

#ifndef CORE_OPS_FED_NORM_H_
#define CORE_OPS_FED_NORM_H_

#include "core/graph/builder.h"
#include "core/graph/op_def.h"

namespace strata {

extern const OpDef kFedNorm;  // (before, rows, gain, fed_gain) as above

// (dx, before, rows, gain, fed_gain, rstd, fed_rstd, to_before?, to_rows?)
// -> d_before [t, d], d_rows [t, d]. With g and f the gradients through the
// two norms, and zeros for what is absent:
//
//   d_before = (to_before + g) - f
//   d_rows   = to_rows + f
extern const OpDef kFedNormInputGrad;

// (dx, before, rows, rstd, fed_rstd) -> dgain [d], dfed_gain [d]
extern const OpDef kFedNormWeightGrad;

// Inputs of FedNormInputGrad.
inline constexpr int kFedNormToBefore = 7;
inline constexpr int kFedNormToRows = 8;

// before, rows [t, d]; gain, fed_gain [d] -> x [t, d]
ValueId FedNorm(GraphBuilder& b, ValueId before, ValueId rows, ValueId gain,
                ValueId fed_gain, double eps);

}  // namespace strata

#endif  // CORE_OPS_FED_NORM_H_
