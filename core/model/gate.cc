#include "core/model/gate.h"

#include <algorithm>
#include <cmath>
#include <cstdint>

#include "absl/strings/string_view.h"
#include "core/graph/builder.h"
#include "core/graph/graph.h"
#include "core/model/config.pb.h"
#include "core/model/count.h"
#include "core/ops/activation.h"
#include "core/ops/elementwise.h"
#include "core/ops/gate.h"
#include "core/ops/matmul.h"

namespace strata {
namespace {

// Chosen experts whose p add up to less are not scaled up to a full mixture.
constexpr double kWorthFloor = 0.5;

ValueId Weight(GraphBuilder& b, absl::string_view name, int64_t rows,
               int64_t columns) {
  return b.Parameter(b.Scoped(name), {Static(rows), Static(columns)});
}

// Expert embeddings [E, r] after one block of self-attention among experts. No
// token enters it, so at serving time it is a constant of the weights.
ValueId Contextualise(GraphBuilder& b, ValueId embedding, int64_t r) {
  const double scale = 1 / std::sqrt(static_cast<double>(r));
  const ValueId q = Linear(b, embedding, Weight(b, "gate.self.q.weight", r, r));
  const ValueId k = Linear(b, embedding, Weight(b, "gate.self.k.weight", r, r));
  const ValueId v = Linear(b, embedding, Weight(b, "gate.self.v.weight", r, r));
  const ValueId attention = MaskedSoftmax(
      b, MatMul(b, q, k, /*transpose_lhs=*/false, /*transpose_rhs=*/true),
      /*mask=*/kNone, scale);
  return Add(b, embedding,
             Linear(b, MatMul(b, attention, v),
                    Weight(b, "gate.self.o.weight", r, r)));
}

}  // namespace

Routing FlatGate(GraphBuilder& b, const ModelConfig& config, ValueId x) {
  const FlatRouterConfig& gate = config.moe().flat();
  const int64_t num_experts = gate.num_experts();
  Routing routing;
  const ValueId logits =
      Linear(b, x, Weight(b, "gate.weight", num_experts, config.d_model()));
  const ValueId p = gate.score() == FlatRouterConfig::SIGMOID
                        ? Sigmoid(b, logits)
                        : MaskedSoftmax(b, logits, /*mask=*/kNone, 1.0);
  if (gate.correction_bias()) {
    routing.bias = b.State(b.Scoped("gate.e_score_correction_bias"),
                           b.compute(), {Static(num_experts)});
  }
  TopKOptions options;
  options.k = gate.k();
  options.num_groups = std::max<int64_t>(1, gate.num_groups());
  options.top_groups = std::max<int64_t>(1, gate.top_groups());
  routing.expert = TopKSelect(b, p, routing.bias, options);
  routing.weight = SelectedWeight(
      b, p, routing.expert,
      {gate.normalize(), /*floor=*/0, gate.scale() == 0 ? 1.0 : gate.scale()});
  return routing;
}

Routing TierGate(GraphBuilder& b, const ModelConfig& config,
                 int64_t num_experts, ValueId x, bool losses) {
  const HierarchicalRouterConfig& gate = config.moe().hierarchical();
  const int64_t d = config.d_model();
  const int64_t r = gate.fine_width();
  const double scale = 1 / std::sqrt(static_cast<double>(r));
  Routing routing;
  routing.bias =
      b.State(b.Scoped("gate.bias"), b.compute(), {Static(num_experts)});

  // Coarse: the bias enters here too, so that a dropped expert can come back.
  const ValueId signature = EnergySignature(b, x, gate.energy_groups());
  const ValueId coarse =
      Linear(b, signature,
             Weight(b, "gate.key.weight", num_experts, gate.energy_groups()));
  const ValueId mask = CoarseFilter(b, Sigmoid(b, coarse), routing.bias,
                                    CoarseSurvivors(gate, num_experts));

  // Fine.
  const ValueId embedding =
      Contextualise(b, Weight(b, "gate.expert.weight", num_experts, r), r);
  const ValueId query = Linear(b, x, Weight(b, "gate.query.weight", r, d));
  const ValueId k =
      Linear(b, embedding, Weight(b, "gate.cross.k.weight", r, r));
  const ValueId v =
      Linear(b, embedding, Weight(b, "gate.cross.v.weight", r, r));
  const ValueId attention = MaskedSoftmax(
      b, MatMul(b, query, k, /*transpose_lhs=*/false, /*transpose_rhs=*/true),
      mask, scale);
  const ValueId refined = Add(b, query,
                              Linear(b, MatMul(b, attention, v),
                                     Weight(b, "gate.cross.o.weight", r, r)));
  const ValueId affinity =
      Scale(b,
            MatMul(b, refined, embedding, /*transpose_lhs=*/false,
                   /*transpose_rhs=*/true),
            scale);
  const ValueId p = Sigmoid(b, affinity);

  // Adjust.
  AdaptiveSelectOptions options;
  options.tau = gate.tau();
  options.k_min = gate.k_min();
  options.k_max = gate.k_max();
  options.exit_threshold = gate.exit_threshold();
  const Selection selection = AdaptiveSelect(b, p, mask, routing.bias, options);
  routing.expert = selection.expert;
  routing.stay = selection.stay;
  // A mixture, unless p is small altogether: then the tier says little, and
  // leaving it changes little.
  routing.weight = SelectedWeight(b, p, routing.expert,
                                  {/*normalize=*/true, kWorthFloor, 1.0});
  if (losses) {
    routing.distill_loss = CoarseDistill(b, coarse, p, mask);
    routing.expected_cost = ExpectedCost(b, p, mask);
  }
  return routing;
}

void ControlLoad(GraphBuilder& b, const ModelConfig& config,
                 const Routing& routing, int64_t num_experts, ValueId offset) {
  const LoadControl& control = config.moe().hierarchical().load();
  const ValueId ema =
      b.State(b.Scoped("gate.load_ema"), b.compute(), {Static(num_experts)});
  const ValueId integral = b.State(b.Scoped("gate.load_integral"), b.compute(),
                                   {Static(num_experts)});
  const Phase phase = b.phase();
  b.set_phase(Phase::kUpdate);
  LoadBias(b, offset, ema, integral, routing.bias,
           {control.ema_decay(), control.gain_p(), control.gain_i(),
            control.max_bias()});
  b.set_phase(phase);
}

}  // namespace strata
