// How a gate chooses: from scores to the experts of each token.
//
// Of equal scores the lower expert index is the better, everywhere. Nothing is
// learned through a choice.

#ifndef CORE_OPS_GATE_SELECT_H_
#define CORE_OPS_GATE_SELECT_H_

#include <cstdint>

#include "core/graph/builder.h"
#include "core/graph/op_def.h"

namespace strata {

extern const OpDef kCoarseFilter;
extern const OpDef kAdaptiveSelect;
extern const OpDef kTopKSelect;
extern const OpDef kExpertChoice;

// 1 at the `keep` columns with the largest score + bias, 0 at the others.
//   score [t, E], bias [E] or kNone -> U8 [t, E]
ValueId CoarseFilter(GraphBuilder& b, ValueId score, ValueId bias,
                     int64_t keep);

struct AdaptiveSelectOptions {
  double tau = 0.7;  // Share of the survivors' summed p to pass.
  int64_t k_min = 1;
  int64_t k_max = 4;
  double exit_threshold = 0.0;  // A token whose best p is below leaves.
  ValueId tau_value = kNone;    // A scalar in place of tau; may change by run.
};
struct Selection {
  ValueId expert = kNone;  // I32 [t, k_max], best first, -1 past the last
  ValueId stay = kNone;    // U8 [t], 0 for a token that leaves (no expert)
};
// Orders the survivors by p + bias and takes the fewest whose p add up to tau
// of the survivors' sum, within [k_min, k_max] (and never more than survive).
// A token whose largest surviving p is below exit_threshold leaves: it takes
// no expert.
//   p [t, E], mask U8 [t, E] or kNone (all survive), bias [E] or kNone
Selection AdaptiveSelect(GraphBuilder& b, ValueId p, ValueId mask, ValueId bias,
                         const AdaptiveSelectOptions& options);

// The k largest of score + bias, best first; `bias` may be kNone. With
// num_groups > 1 the experts form equal groups, a group counts as the sum of
// its two best, and only the best `top_groups` groups are looked at (others
// count as -infinity): DeepSeek-V3's rule.
//   score [t, E], bias [E] -> I32 [t, k]
struct TopKOptions {
  int64_t k = 2;
  int64_t num_groups = 1;
  int64_t top_groups = 1;
};
ValueId TopKSelect(GraphBuilder& b, ValueId score, ValueId bias,
                   const TopKOptions& options);

// Expert choice (Zhou et al. 2022): each expert takes the tokens that score it
// highest, as many as make k a token on average: ceil(t * k / E), t the tokens
// that came; of equal scores the earlier token. A token's experts are listed
// best first, and may be none. Whether a token is taken depends on the tokens
// after it, so a causal model that is trained so cannot be run token by token.
//   score [t, E] -> I32 [t, E], -1 past the last
ValueId ExpertChoice(GraphBuilder& b, ValueId score, int64_t k);

}  // namespace strata

#endif  // CORE_OPS_GATE_SELECT_H_
