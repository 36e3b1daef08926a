// What gates are trained by, beside the model's own loss.

#ifndef CORE_OPS_GATE_LOSS_H_
#define CORE_OPS_GATE_LOSS_H_

#include <cstdint>

#include "core/graph/builder.h"
#include "core/graph/op_def.h"

namespace strata {

extern const OpDef kCoarseDistill;      // (c, p, mask) -> loss []
extern const OpDef kCoarseDistillGrad;  // (dloss, c, p, mask) -> dc
extern const OpDef kExpectedCost;       // (p, mask) -> cost []
extern const OpDef kExpectedCostGrad;   // (dcost, p, mask) -> dp
extern const OpDef kBalanceLoss;        // (p, expert, seq_start?) -> loss []
extern const OpDef kBalanceLossGrad;    // (dloss, p, expert, seq_start?) -> dp
extern const OpDef kZLoss;              // logits -> loss []
extern const OpDef kZLossGrad;          // (dloss, logits) -> dlogits

// What teaches the coarse stage: mean over the survivors of
// BCE(sigmoid(c), p), p taken as a constant. Gradient to c alone. 0 if t is 0.
//   c [t, E], p [t, E], mask U8 [t, E] -> []
ValueId CoarseDistill(GraphBuilder& b, ValueId c, ValueId p, ValueId mask);

// Mean of p over the survivors: the expected cost that, weighed and added to
// the loss, makes p say whether an expert is worth calling. 0 if t is 0.
//   p [t, E], mask U8 [t, E] -> []
ValueId ExpectedCost(GraphBuilder& b, ValueId p, ValueId mask);

// The load-balance loss of Switch and DeepSeek-V3, sum over experts of f P:
//   f_e = E * (choices of e) / (all choices)
//   P_e = mean over tokens of p_e / (sum of the token's p)
// which is 1 for even loads, E at worst. Gradient through P alone. With
// `seq_start` the mean of the same over each sequence (those without tokens
// left out); with kNone over all tokens at once. 0 if t is 0.
//   p [t, E], expert I32 [t, k] (-1: none), seq_start I32 [S + 1] -> []
ValueId BalanceLoss(GraphBuilder& b, ValueId p, ValueId expert,
                    ValueId seq_start);

// The router z-loss (Zoph et al. 2022): mean over tokens of
// log(sum of exp(logits))^2, which keeps logits small. 0 if t is 0.
//   logits [t, E] -> []
ValueId ZLoss(GraphBuilder& b, ValueId logits);

}  // namespace strata

#endif  // CORE_OPS_GATE_LOSS_H_
