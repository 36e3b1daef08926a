// Gates: which experts a token goes to, and with what weight.
//
// The hierarchical gate's three stages (DESIGN.md, "The MoE block"), for a
// tier of E experts:
//
//   x [t, d] --EnergySignature--> s [t, groups] --Linear(keys)--> c [t, E]
//   c + bias --CoarseFilter-->  mask [t, E]          the better half survives
//   fine stage: MatMul, MaskedSoftmax, Sigmoid  -->  p [t, E]
//   p, mask, bias --AdaptiveSelect--> expert [t, k_max], stay [t]
//   p, expert --SelectedWeight--> weight [t, k_max]
//
// The flat gates share SelectedWeight and differ in TopKSelect's score.
// Of equal scores the lower expert index is the better, everywhere.

#ifndef CORE_OPS_GATE_H_
#define CORE_OPS_GATE_H_

#include <cstdint>

#include "core/graph/builder.h"
#include "core/graph/op_def.h"

namespace strata {

extern const OpDef kEnergySignature;
extern const OpDef kCoarseFilter;
extern const OpDef kAdaptiveSelect;
extern const OpDef kTopKSelect;
extern const OpDef kSelectedWeight;      // (p, expert) -> weight
extern const OpDef kSelectedWeightGrad;  // (dweight, p, expert) -> dp
extern const OpDef kCoarseDistill;       // (c, p, mask) -> loss []
extern const OpDef kCoarseDistillGrad;   // (dloss, c, p, mask) -> dc
extern const OpDef kExpectedCost;        // (p, mask) -> cost []
extern const OpDef kExpectedCostGrad;    // (dcost, p, mask) -> dp
extern const OpDef kLoadBias;

// How the energy of each row is spread over `groups` equal slices of n columns:
//   s_g = sqrt(2 n) * (sqrt(groups) * |x_g| / |x| - 1)
// An even row gives zeros, so that keys tell tokens apart rather than add the
// same to all; of normal numbers s has a variance of about 1 (a chi of n
// degrees varies by 1/sqrt(2 n)). A zero row gives zeros. Not differentiated:
// what reads it learns by distillation (its gradient function sets nothing).
//   x [t, d], d a multiple of groups -> [t, groups]
ValueId EnergySignature(GraphBuilder& b, ValueId x, int64_t groups);

// 1 at the `keep` columns with the largest score + bias, 0 at the others.
//   score [t, E], bias [E] -> U8 [t, E]
ValueId CoarseFilter(GraphBuilder& b, ValueId score, ValueId bias,
                     int64_t keep);

struct AdaptiveSelectOptions {
  double tau = 0.7;  // Share of the survivors' summed p to pass.
  int64_t k_min = 1;
  int64_t k_max = 4;
  double exit_threshold = 0.0;  // A token whose best p is below leaves.
};
struct Selection {
  ValueId expert = kNone;  // I32 [t, k_max], best first, -1 past the last
  ValueId stay = kNone;    // U8 [t], 0 for a token that leaves (no expert)
};
// Orders the survivors by p + bias and takes the fewest whose p add up to tau
// of the survivors' sum, within [k_min, k_max] (and never more than survive).
// A token whose largest surviving p is below exit_threshold leaves: it takes
// no expert.
//   p [t, E], mask U8 [t, E], bias [E]
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

// How the chosen experts' p become weights.
struct WeightOptions {
  bool normalize = false;  // Over the row's sum of chosen p (+ 1e-20) ...
  double floor = 0;        // ... or over this, where the sum is less.
  double scale = 1;
};

// weight[i, j] = scale * p[i, expert[i, j]], if `normalize` over
// max(sum of the row's chosen p, floor); 0 where expert is -1. Weights of a row
// thus sum to `scale`, or to less where p is small altogether.
//   p [t, E], expert I32 [t, k] -> [t, k]
ValueId SelectedWeight(GraphBuilder& b, ValueId p, ValueId expert,
                       const WeightOptions& options);

// What teaches the coarse stage: mean over the survivors of
// BCE(sigmoid(c), p), p taken as a constant. Gradient to c alone. 0 if t is 0.
//   c [t, E], p [t, E], mask U8 [t, E] -> []
ValueId CoarseDistill(GraphBuilder& b, ValueId c, ValueId p, ValueId mask);

// Mean of p over the survivors: the expected cost that, weighed and added to
// the loss, makes p say whether an expert is worth calling. 0 if t is 0.
//   p [t, E], mask U8 [t, E] -> []
ValueId ExpectedCost(GraphBuilder& b, ValueId p, ValueId mask);

// The load-history controller as a node of phase kUpdate: from the rows each
// expert got (differences of `offset`), updates ema, integral and bias in
// place as core/parallel/load_controller.h says.
//   offset I32 [E + 1]; ema, integral, bias: state [E]
struct LoadBiasOptions {
  double ema_decay = 0.9;
  double gain_p = 0.0;
  double gain_i = 0.0;
  double max_bias = 0.5;
};
void LoadBias(GraphBuilder& b, ValueId offset, ValueId ema, ValueId integral,
              ValueId bias, const LoadBiasOptions& options);

}  // namespace strata

#endif  // CORE_OPS_GATE_H_
