// The output projection, cross-entropy and both their gradients, some rows at a
// time, so that the logits of all tokens are never in memory at once:
//
//   x [t, d]  w [vocab, d]  target I32 [t]  dloss []
//     |
//     |  for chunk_rows rows after chunk_rows rows:
//     |    logits = x w^T                      [chunk_rows, vocab]
//     |    nll, hit = CrossEntropy(logits, target)        core/ops/loss.h
//     |    dlogits = CrossEntropyGrad(dloss, logits, ...)
//     |    dx = dlogits w;  dw += dlogits^T x
//     v
//   loss []  nll [t]  hit U8 [t]  dx [t, d]  dw [vocab, d]
//
// Results are those of the operators it stands for, but for the order in which
// dw is summed. `chunk_rows` changes that order and the memory wanted, no more.
// w may be BF16 where x is F32; results are of the type of x.
//
// HeadScore is the part without gradients, for validation:
//
//   x, w, target -> loss, nll, hit
//
// core/passes/chunk_losses.h emits both.

#ifndef CORE_OPS_HEAD_LOSS_H_
#define CORE_OPS_HEAD_LOSS_H_

#include "core/graph/op_def.h"

namespace strata {

extern const OpDef kHeadLoss;
extern const OpDef kHeadScore;
enum HeadLossInput { kHeadX, kHeadWeight, kHeadTarget, kHeadLossGrad };
enum HeadLossOutput { kHeadLossMean, kHeadNll, kHeadHit, kHeadDx, kHeadDw };

}  // namespace strata

#endif  // CORE_OPS_HEAD_LOSS_H_
