// A score corrected by its expert's load bias: what a gate weighs by where the
// bias is to change the weights rather than the choice.

#ifndef CORE_OPS_BIASED_SCORE_H_
#define CORE_OPS_BIASED_SCORE_H_

#include "core/graph/builder.h"
#include "core/graph/op_def.h"

namespace strata {

extern const OpDef kBiasedScore;
extern const OpDef kBiasedScoreGrad;  // (dout, p, bias) -> dp

// max(p + bias, 0). No gradient reaches the bias, which is a controller's.
//   p [t, E], bias [E] -> [t, E]
ValueId BiasedScore(GraphBuilder& b, ValueId p, ValueId bias);

}  // namespace strata

#endif  // CORE_OPS_BIASED_SCORE_H_
