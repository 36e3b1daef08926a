// Gates: from tokens to experts and weights. One interface, several siblings.

#ifndef CORE_MODEL_GATE_H_
#define CORE_MODEL_GATE_H_

#include <cstdint>

#include "core/graph/builder.h"
#include "core/graph/graph.h"
#include "core/model/config.pb.h"

namespace strata {

// What any gate returns.
struct Routing {
  ValueId expert = kNone;  // I32 [t, k], best first, -1 past the last
  ValueId weight = kNone;  // [t, k]
  ValueId stay = kNone;    // U8 [t], 0: the token leaves; kNone: none leaves
  ValueId bias = kNone;    // State [experts] that steers the choice, or kNone
  ValueId distill_loss = kNone;   // []
  ValueId expected_cost = kNone;  // []
};

// Top-k of a softmax or of sigmoids, with DeepSeek-V3's correction bias and
// group limit as options. x [t, d]; the builder's scope is the block.
Routing FlatGate(GraphBuilder& builder, const ModelConfig& config, ValueId x);

// The three-stage gate of one tier (docs/architecture.md, "The gate"):
//   coarse  energy signature against keys; the worse part is dropped
//   fine    token query, refined by cross-attention over the survivors'
//           contextualised embeddings; affinity; sigmoid
//   adjust  load bias on the choice; dynamic number of experts; early exit
// `losses`: emit the gate's training losses. The builder's scope is the tier.
Routing TierGate(GraphBuilder& builder, const ModelConfig& config,
                 int64_t num_experts, ValueId x, bool losses);

// The update of the tier's load bias from the rows its experts got.
void ControlLoad(GraphBuilder& builder, const ModelConfig& config,
                 const Routing& routing, int64_t num_experts, ValueId offset);

}  // namespace strata

#endif  // CORE_MODEL_GATE_H_
