// Gates: how tokens and experts meet, and what a choice weighs. The choice
// itself is in gate_select.h, what gates are trained by in gate_loss.h.
//
// The hierarchical gate's three stages (DESIGN.md, "The MoE block"), for a
// tier of E experts:
//
//   x [t, d] --EnergySignature--> s [t, groups] --Linear(keys)--> c [t, E]
//   c + bias --CoarseFilter-->  mask [t, E]          the better half survives
//   fine stage: MatMul, MaskedSoftmax, Sigmoid  -->  p [t, E]
//   p, mask, bias --AdaptiveSelect--> expert [t, k_max], stay [t]
//   p, expert --SelectedWeight--> weight [t, k_max] --CarryWeight--> [t, k_max]

#ifndef CORE_OPS_GATE_H_
#define CORE_OPS_GATE_H_

#include <cstdint>

#include "core/graph/builder.h"
#include "core/graph/op_def.h"

namespace strata {

extern const OpDef kEnergySignature;
extern const OpDef kEnergySignatureGrad;  // (ds, x) -> dx
extern const OpDef kSelectedWeight;       // (p, expert) -> weight
extern const OpDef kSelectedWeightGrad;   // (dweight, p, expert) -> dp
extern const OpDef kCarryWeight;          // (weight, carry?) -> scaled, carry
extern const OpDef kCarryWeightGrad;      // (dscaled?, dcarry?, weight, carry?)
                                          //   -> dweight, dcarry
extern const OpDef kLoadBias;
extern const OpDef kSignBias;

// How the energy of each row is spread over `groups` equal slices of n columns:
//   s_g = sqrt(2 n) * (sqrt(groups) * |x_g| / |x| - 1)
// An even row gives zeros, so that keys tell tokens apart rather than add the
// same to all; of normal numbers s has a variance of about 1 (a chi of n
// degrees varies by 1/sqrt(2 n)). A zero row gives zeros, and no gradient; nor
// does a zero slice, where the norm has a kink.
//   x [t, d], d a multiple of groups -> [t, groups]
ValueId EnergySignature(GraphBuilder& b, ValueId x, int64_t groups);

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

// The soft form of early exit. What a tier adds to a token counts as much as
// the tiers before said that it goes on:
//   scaled[i, j] = carry[i] * weight[i, j]
//   new carry[i] = sum over j of scaled[i, j]
// With weights that sum to 1, or to less where the tier says little, the carry
// is the share of the token that is still on its way. kNone: all of it.
//   weight [t, k], carry [t, 1] or kNone -> [t, k], [t, 1]
struct Carried {
  ValueId weight = kNone;
  ValueId carry = kNone;
};
Carried CarryWeight(GraphBuilder& b, ValueId weight, ValueId carry);

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

// DeepSeek-V3's controller, likewise: every bias goes up by `rate` where its
// expert got fewer rows than the mean, down where it got more.
//   offset I32 [E + 1]; bias: state [E]
void SignBias(GraphBuilder& b, ValueId offset, ValueId bias, double rate);

}  // namespace strata

#endif  // CORE_OPS_GATE_H_
