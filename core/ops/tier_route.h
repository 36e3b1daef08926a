// The token side of a tier's gate in training, as one operator with a gradient
// (docs/fusion.md, "Training"): what the three stages of core/ops/gate.h make
// of projected tokens and of the experts that ExpertContext made, and the
// losses that the gate is trained by.
//
//   token [t, energies + r]  --EnergySignature, CoarseFilter, cross-attention,
//     |                        AdaptiveSelect, SelectedWeight-->
//   expert, weight [t, k_max]    distill, cost, balance []
//
// Defined by the operators it stands for (TierGate() of core/model/gate.h emits
// either), to which kernels are held; no token leaves. Its gradient makes anew
// what it reads but the choice, so of a token only its projection and which
// experts the coarse stage left are kept.

#ifndef CORE_OPS_TIER_ROUTE_H_
#define CORE_OPS_TIER_ROUTE_H_

#include <cstdint>

#include "core/graph/builder.h"
#include "core/graph/op_def.h"
#include "core/ops/fused_gate.h"

namespace strata {

extern const OpDef kTierRoute;
enum TierRouteInput {
  kRouteToken,    // [t, energies + r], the energies a multiple of groups
  kRouteKey,      // [E, groups], beside F32 tokens also BF16
  kRouteBias,     // [E], added where experts are left and chosen
  kRouteExperts,  // [E, r], and the next two: of ExpertContext
  kRouteExpertKey,
  kRouteExpertValue,
};
enum TierRouteOutput {
  kRouteExpert,   // I32 [t, k_max]
  kRouteWeight,   // [t, k_max]
  kRouteLeft,     // U8 [t, E], whom the coarse stage left
  kRouteLoad,     // [E], E times the share of all choices: f of BalanceLoss
  kRouteDistill,  // [], CoarseDistill
  kRouteCost,     // [], ExpectedCost
  kRouteBalance,  // [], BalanceLoss of the affinities' softmax, over all tokens
};

// Gradients of the weights and the losses, each of which may be absent; the
// inputs above but the bias; and what was decided. Outputs: gradients of token,
// key, experts, expert key and expert value, all of the token's type.
extern const OpDef kTierRouteGrad;
enum TierRouteGradInput {
  kRouteGradWeight,  // [t, k_max]
  kRouteGradDistill,
  kRouteGradCost,
  kRouteGradBalance,
  kRouteGradToken,  // From here on as above.
  kRouteGradKey,
  kRouteGradExperts,
  kRouteGradExpertKey,
  kRouteGradExpertValue,
  kRouteGradExpert,
  kRouteGradLeft,
  kRouteGradLoad,
};

// What kernels hold on the chip: gates of wider ones keep their operators.
struct TierRouteLimits {
  static constexpr int64_t kExperts = 64, kChosen = 64, kR = 64;
  static constexpr int64_t kEnergies = 128;
};

struct TierRouteResult {
  ValueId expert = kNone, weight = kNone;
  ValueId distill = kNone, cost = kNone, balance = kNone;
};
// `options.exit_threshold` is 0.
TierRouteResult TierRoute(GraphBuilder& b, ValueId token, ValueId key,
                          ValueId bias, const ExpertSide& experts,
                          const TierGateOptions& options);

}  // namespace strata

#endif  // CORE_OPS_TIER_ROUTE_H_
