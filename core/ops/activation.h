// Activation functions: SwiGLU, sigmoid, masked softmax.

#ifndef CORE_OPS_ACTIVATION_H_
#define CORE_OPS_ACTIVATION_H_

#include "core/graph/builder.h"
#include "core/graph/op_def.h"

namespace strata {

extern const OpDef kSwiGlu;             // h -> y
extern const OpDef kSwiGluGrad;         // (dy, h) -> dh
extern const OpDef kSigmoid;            // x -> y
extern const OpDef kSigmoidGrad;        // (dy, y) -> dx
extern const OpDef kMaskedSoftmax;      // (x, mask?) -> y
extern const OpDef kMaskedSoftmaxGrad;  // (dy, y) -> dx, scaled alike

// h [r, 2n] = [gate | up] -> silu(gate) * up [r, n]
ValueId SwiGlu(GraphBuilder& b, ValueId h);

// 1 / (1 + exp(-x)), any shape.
ValueId Sigmoid(GraphBuilder& b, ValueId x);

// Softmax of scale * x [t, n] over the columns whose mask [t, n] (U8) is not 0;
// zero at the others. `mask` may be kNone. A row with no column left is zero.
ValueId MaskedSoftmax(GraphBuilder& b, ValueId x, ValueId mask, double scale);

}  // namespace strata

#endif  // CORE_OPS_ACTIVATION_H_
