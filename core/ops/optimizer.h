// The optimizer's updates of state: nodes of phase kUpdate, no gradients.

#ifndef CORE_OPS_OPTIMIZER_H_
#define CORE_OPS_OPTIMIZER_H_

#include "absl/types/span.h"
#include "core/graph/builder.h"
#include "core/graph/op_def.h"

namespace strata {

extern const OpDef kAccumulate;        // (sum, value, keep) in place
extern const OpDef kAccumulateCounts;  // (sum, value, keep) in place
extern const OpDef kGlobalNorm;        // (divisor, grad...) -> norm []
extern const OpDef kAdamW;             // (param, m, v, grad, norm, divisor, lr,
                                       // step) in place

// sum = keep * sum + value: `keep` [] is 0 for the first micro-batch of a step
// and 1 for the others. sum (state) and value are of one type.
void Accumulate(GraphBuilder& b, ValueId sum, ValueId value, ValueId keep);

// The same of counts: sum (state) and value are I32 of one type; `keep` [] is a
// float, and any but 0 keeps the sum.
void AccumulateCounts(GraphBuilder& b, ValueId sum, ValueId value,
                      ValueId keep);

// The L2 norm over all elements of all `grads`, divided by `divisor` [] (the
// number of micro-batches that were accumulated).
ValueId GlobalNorm(GraphBuilder& b, absl::Span<const ValueId> grads,
                   ValueId divisor);

struct AdamWOptions {
  double beta1 = 0.9;
  double beta2 = 0.95;
  double eps = 1e-8;
  double weight_decay = 0.1;  // Decoupled; 0 for norms and biases.
  double max_norm = 1.0;      // Gradients are scaled by min(1, max_norm/norm).
};

// Adam with decoupled weight decay (arXiv:1711.05101), with bias correction:
//   g = grad / divisor * min(1, max_norm / norm)
//   m = beta1 m + (1 - beta1) g;  v = beta2 v + (1 - beta2) g^2
//   param -= lr * (m / (1 - beta1^step) / (sqrt(v / (1 - beta2^step)) + eps)
//                  + weight_decay * param)
// If norm is NaN or infinite, nothing changes.
// param, m, v, grad of one type; norm, divisor, lr [] of the compute dtype;
// step [] I32, from 1.
void AdamW(GraphBuilder& b, ValueId param, ValueId m, ValueId v, ValueId grad,
           ValueId norm, ValueId divisor, ValueId lr, ValueId step,
           const AdamWOptions& options);

}  // namespace strata

#endif  // CORE_OPS_OPTIMIZER_H_
