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

}  // namespace strata

#endif  // CORE_OPS_LOSS_H_
