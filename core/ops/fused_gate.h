// The gate of a tier when its operators are fused (docs/fusion.md):
//
//   embedding [E, r] --ExpertContext--> contextualised, keys, values  [E, r]
//   x [t, d] --TierGate--> expert, stay, weight
//
// TierGate is the three stages of core/ops/gate.h for a token: energy
// signature, coarse filter, cross-attention to the experts that are left,
// choice and weights, on rows that stay in the processor. Both are defined by
// the operators they stand for. TierGate has no gradient; ExpertContext's is
// one operator too.

#ifndef CORE_OPS_FUSED_GATE_H_
#define CORE_OPS_FUSED_GATE_H_

#include <cstdint>

#include "absl/types/span.h"
#include "core/graph/attrs.h"
#include "core/graph/builder.h"
#include "core/graph/graph.h"
#include "core/graph/op_def.h"

namespace strata {

// Self-attention among experts, and what tokens meet them by: no token in it.
// Outputs: e + W_o attention(W_q e, W_k e, W_v e); W_ck of that; W_co W_cv of
// that; each [E, r]. Attribute: scale, of the attention.
extern const OpDef kExpertContext;
// What tokens meet a tier's experts by.
struct ExpertSide {
  ValueId context = kNone;  // Each [E, r].
  ValueId key = kNone;
  ValueId value = kNone;
};
enum ExpertContextInput {
  kContextEmbedding,  // [E, r]
  kContextQ,          // [r, r], and all that follow; BF16 or as embedding
  kContextK,
  kContextV,
  kContextO,
  kContextCrossK,
  kContextCrossV,
  kContextCrossO,
};

// `inputs` in the order of ExpertContextInput.
ExpertSide ExpertContext(GraphBuilder& b, absl::Span<const ValueId> inputs,
                         double scale);

// The gradients of ExpertContext's eight inputs, in their order: (dcontext,
// dkey, dvalue, those eight). Of the first three any may be absent, not all.
// What the forward pass made is made again: it costs less than to keep it.
extern const OpDef kExpertContextGrad;
constexpr int kContextGrads = 3;  // Inputs before ExpertContext's own.

// expert I32 [t, k_max], stay U8 [t], weight [t, k_max].
extern const OpDef kTierGate;
enum TierGateInput {
  kTierX,      // [t, d]
  kTierToken,  // [energies + r, d]: of the energies, groups * width of them or
               // 0, where x is its own; then of the query
  kTierKey,    // [E, groups]
  kTierBias,   // [E] or absent: added where experts are left and chosen
  kTierExperts,  // [E, r], and the next two: of ExpertContext
  kTierExpertKey,
  kTierExpertValue,
};
struct TierGateOptions {
  int64_t groups = 1;  // Of EnergySignature.
  int64_t keep = 1;    // Of CoarseFilter.
  double attention_scale = 1;
  double affinity_scale = 1;
  bool add_coarse = false;
  double tau = 0;  // The next four as AdaptiveSelectOptions'.
  int64_t k_min = 1;
  int64_t k_max = 1;
  double exit_threshold = 0;
  bool normalize = false;  // The next three as WeightOptions'.
  double floor = 0;
  double scale = 1;
};
Attrs TierGateAttrs(const TierGateOptions& options);

}  // namespace strata

#endif  // CORE_OPS_FUSED_GATE_H_
