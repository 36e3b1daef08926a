// Gates: from tokens to experts and weights. One interface, several siblings.

#ifndef CORE_MODEL_GATE_H_
#define CORE_MODEL_GATE_H_

#include <cstdint>
#include <string>
#include <vector>

#include "core/graph/builder.h"
#include "core/graph/graph.h"
#include "core/model/config.pb.h"

namespace strata {

struct GateLoss {
  ValueId loss = kNone;  // []
  double weight = 0;
};

// What any gate returns.
struct Routing {
  ValueId expert = kNone;  // I32 [t, k], best first, -1 past the last
  ValueId weight = kNone;  // [t, k]
  ValueId stay = kNone;    // U8 [t], 0: the token leaves; kNone: none leaves
  ValueId bias = kNone;    // State [experts] that steers the choice, or kNone
  std::vector<GateLoss> losses;  // To be added to the model's.
};

// Where the choices come from. Weights are always the gate's own: the p of
// whoever was chosen.
enum class RouteSource {
  kGate,      // The gate chooses.
  kReplay,    // The graph's inputs, which a recorded trace fills.
  kBalanced,  // BalancedSelect: even loads; nobody leaves.
};

struct GateOptions {
  RouteSource source = RouteSource::kGate;
  // With kReplay, the names of the inputs that are the choice: I32 [t, k], as
  // Routing::expert; and, where tokens may leave, U8 [t], as Routing::stay.
  std::string replay_expert;
  std::string replay_stay;
  // Emit the losses, and let no token leave a tier; what a tier that it would
  // have left adds then counts little (CarryWeight).
  bool train = false;
  // Emit the operators that stand for several and have gradients, for backends
  // that have kernels for them (docs/fusion.md, "Training").
  bool fused = false;
  ValueId seq_start = kNone;  // I32 [sequences + 1], for losses a sequence.
  ValueId tau = kNone;        // [], in place of the config's.
};

// One choice among all experts: top-k of a softmax or of sigmoids, with
// DeepSeek-V3's correction bias and group limit as options; top-p; or expert
// choice. x [t, d]; the builder's scope is the block.
Routing FlatGate(GraphBuilder& builder, const ModelConfig& config, ValueId x,
                 const GateOptions& options);

// The three-stage gate of one tier (docs/router.md):
//   coarse  energy signature against keys; the worse part is dropped
//   fine    token query, refined by cross-attention over the survivors'
//           contextualised embeddings; affinity; sigmoid
//   adjust  load bias on the choice; dynamic number of experts; early exit
// Without a fine stage (fine_width 0) the coarse score is the affinity.
// The builder's scope is the tier.
Routing TierGate(GraphBuilder& builder, const ModelConfig& config,
                 int64_t num_experts, ValueId x, const GateOptions& options);

// The name of the state that counts the rows of a gate's experts over a step,
// [experts + 1] I32 as in a dispatch plan; `gate` is the gate's prefix, as
// "model.layers.0.mlp.tier.1.gate".
std::string LoadName(absl::string_view gate);
// That prefix if `state` is such a name, else empty.
absl::string_view GateOfLoad(absl::string_view state);

// The update of a gate's load bias, if the model has one, from the rows that
// its experts got in a step: `load`, the state LoadName(gate).
void ControlLoad(GraphBuilder& builder, const ModelConfig& config,
                 absl::string_view gate, ValueId load);

}  // namespace strata

#endif  // CORE_MODEL_GATE_H_
