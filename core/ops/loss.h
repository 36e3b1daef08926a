// Cross-entropy of next-token prediction.

#ifndef CORE_OPS_LOSS_H_
#define CORE_OPS_LOSS_H_

#include "core/graph/builder.h"
#include "core/graph/op_def.h"

namespace strata {

extern const OpDef kCrossEntropy;      // -> loss [], nll [t], lse [t],
                                       //    hit [t]
extern const OpDef kCrossEntropyGrad;  // (dloss [], logits, target, lse)
                                       //   -> dlogits [t, vocab]
extern const OpDef kNextTarget;        // (target, seq_start) -> ids, next

struct CrossEntropyResult {
  ValueId loss = kNone;  // [], mean of nll over the tokens that count, nats
  ValueId nll = kNone;   // [t], -log p(target), 0 where the token is left out
  ValueId hit = kNone;  // U8 [t], 1 where no logit is above the target's, nor a
                        // lower id's as high: greedy decoding says it
};

// logits [t, vocab], target [t] I32 in [0, vocab), or -1: the token is left
// out of the mean. With no token that counts the loss is 0.
CrossEntropyResult CrossEntropy(GraphBuilder& b, ValueId logits,
                                ValueId target);

// What one more step ahead is predicted from, and what it is (multi-token
// prediction): token i sees target[i] and predicts what follows it.
//   target [t] I32 as above, seq_start [n + 1] I32 first row of each sequence
//   -> ids [t] I32: target, 0 where that is -1
//      next [t] I32: the target of the row behind, -1 where there is none in
//                    the sequence or target is -1
struct NextTargetResult {
  ValueId ids = kNone;
  ValueId next = kNone;
};
NextTargetResult NextTarget(GraphBuilder& b, ValueId target, ValueId seq_start);

}  // namespace strata

#endif  // CORE_OPS_LOSS_H_
