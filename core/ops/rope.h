// Rotary position embedding (RoFormer, arXiv:2104.09864), halves rotated
// against each other as Llama and Hugging Face do.
//
// Of each head's d columns the last `rotary_dim` are rotated: with r =
// rotary_dim and base column s = d - r, for j in [0, r/2)
//
//   angle = position * theta^(-2j / r)
//   y[s + j]       = x[s + j] cos(angle) - x[s + j + r/2] sin(angle)
//   y[s + j + r/2] = x[s + j] sin(angle) + x[s + j + r/2] cos(angle)

#ifndef CORE_OPS_ROPE_H_
#define CORE_OPS_ROPE_H_

#include <cstdint>

#include "core/graph/builder.h"
#include "core/graph/op_def.h"

namespace strata {

extern const OpDef kRope;  // Attribute inverse=1 turns back: the gradient.

struct RopeOptions {
  int64_t num_heads = 1;
  int64_t rotary_dim = 0;
  double theta = 10000;
};

// x [t, num_heads * d], position [t] I32 -> same shape.
ValueId Rope(GraphBuilder& b, ValueId x, ValueId position,
             const RopeOptions& options, bool inverse = false);

}  // namespace strata

#endif  // CORE_OPS_ROPE_H_
