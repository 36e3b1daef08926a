#include "core/model/gate.h"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "absl/strings/strip.h"
#include "core/graph/builder.h"
#include "core/graph/graph.h"
#include "core/model/config.pb.h"
#include "core/model/count.h"
#include "core/ops/activation.h"
#include "core/ops/biased_score.h"
#include "core/ops/elementwise.h"
#include "core/ops/fused_gate.h"
#include "core/ops/gate.h"
#include "core/ops/gate_loss.h"
#include "core/ops/gate_select.h"
#include "core/ops/matmul.h"
#include "core/ops/tier_route.h"
#include "core/tensor/dtype.h"

namespace strata {
namespace {

// Of states, behind the gate's prefix.
constexpr absl::string_view kLoadSuffix = ".load";
constexpr absl::string_view kBiasSuffix = ".bias";
constexpr absl::string_view kFlatBiasSuffix = ".e_score_correction_bias";

// Chosen experts whose p add up to less are not scaled up to a full mixture.
constexpr double kWorthFloor = 0.5;

ValueId Weight(GraphBuilder& b, absl::string_view name, int64_t rows,
               int64_t columns) {
  return b.Parameter(b.Scoped(name), {Static(rows), Static(columns)});
}

ValueId FlatChoice(GraphBuilder& b, const FlatRouterConfig& gate, ValueId p,
                   ValueId bias) {
  switch (gate.choice()) {
    case FlatRouterConfig::TOP_P: {
      AdaptiveSelectOptions options;
      options.tau = gate.top_p();
      options.k_max = gate.k();
      return AdaptiveSelect(b, p, /*mask=*/kNone, bias, options).expert;
    }
    case FlatRouterConfig::EXPERT_CHOICE:
      return ExpertChoice(b, p, gate.k());
    default: {
      TopKOptions options;
      options.k = gate.k();
      options.num_groups = std::max<int64_t>(1, gate.num_groups());
      options.top_groups = std::max<int64_t>(1, gate.top_groups());
      options.group_max = gate.group_max();
      return TopKSelect(b, p, bias, options);
    }
  }
}

// The choice where it is not the gate's own. `columns` and `k`: how many
// experts the gate lists of a token, and how many a token takes.
Selection GivenChoice(GraphBuilder& b, const GateOptions& options, ValueId p,
                      int64_t columns, int64_t k, bool may_leave) {
  if (options.source == RouteSource::kBalanced) {
    return {BalancedSelect(b, p, k), kNone};
  }
  const Dim t = b.type(p).dims[0];
  Selection given;
  given.expert =
      b.Input(options.replay_expert, DType::kI32, {t, Static(columns)});
  if (may_leave) given.stay = b.Input(options.replay_stay, DType::kU8, {t});
  return given;
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

// The experts' side of the fine stage: what queries meet, of weights alone. By
// one operator if `fused`.
ExpertSide MakeExpertSide(GraphBuilder& b, const ModelConfig& config,
                          int64_t num_experts, bool fused) {
  const int64_t r = config.moe().hierarchical().fine_width();
  const ValueId embedding = Weight(b, "gate.expert.weight", num_experts, r);
  if (fused) {
    std::vector<ValueId> inputs = {embedding};
    for (const char* const name :
         {"gate.self.q.weight", "gate.self.k.weight", "gate.self.v.weight",
          "gate.self.o.weight", "gate.cross.k.weight", "gate.cross.v.weight",
          "gate.cross.o.weight"}) {
      inputs.push_back(Weight(b, name, r, r));
    }
    return ExpertContext(b, inputs, 1 / std::sqrt(static_cast<double>(r)));
  }
  ExpertSide experts;
  experts.context = Contextualise(b, embedding, r);
  experts.key =
      Linear(b, experts.context, Weight(b, "gate.cross.k.weight", r, r));
  // The output projection stands on the experts' side of the attention, where
  // it costs nothing by the token.
  experts.value = Linear(
      b, Linear(b, experts.context, Weight(b, "gate.cross.v.weight", r, r)),
      Weight(b, "gate.cross.o.weight", r, r));
  return experts;
}

// What the stages of a tier's gate read of a token.
struct TokenSide {
  ValueId energies = kNone;  // [t, groups * energy_dim], or x itself.
  ValueId query = kNone;     // [t, fine_width], or kNone.
};

// Both by one product: two narrow ones keep a core's units less busy, and they
// are nine tenths of what a gate costs.
TokenSide ProjectToken(GraphBuilder& b, const ModelConfig& config, ValueId x) {
  const HierarchicalRouterConfig& gate = config.moe().hierarchical();
  const int64_t energies = gate.energy_groups() * gate.energy_dim();
  const int64_t r = gate.fine_width();
  if (energies + r == 0) return {x, kNone};
  const ValueId both = Linear(
      b, x, Weight(b, "gate.token.weight", energies + r, config.d_model()));
  if (r == 0) return {both, kNone};
  if (energies == 0) return {x, both};
  return {SliceColumns(b, both, 0, energies),
          SliceColumns(b, both, energies, r)};
}

// The fine stage's score of the experts that `mask` leaves: [t, E].
ValueId FineAffinity(GraphBuilder& b, const ModelConfig& config,
                     int64_t num_experts, bool fused, ValueId query,
                     ValueId mask) {
  const int64_t r = config.moe().hierarchical().fine_width();
  const ExpertSide experts = MakeExpertSide(b, config, num_experts, fused);
  const ValueId attention =
      MaskedSoftmax(b,
                    MatMul(b, query, experts.key, /*transpose_lhs=*/false,
                           /*transpose_rhs=*/true),
                    mask, 1 / std::sqrt(static_cast<double>(r)));
  const ValueId refined = Add(b, query, MatMul(b, attention, experts.value));
  // Both factors are learned, so the product is scaled by 1 / r: by 1 /
  // sqrt(r), a step of the optimizer moved it by more than its own size.
  return Scale(b,
               MatMul(b, refined, experts.context, /*transpose_lhs=*/false,
                      /*transpose_rhs=*/true),
               1 / static_cast<double>(r));
}

// Whether TierRoute stands for all behind a token's projection.
bool IsRouted(const HierarchicalRouterConfig& gate, int64_t num_experts,
              const GateOptions& options) {
  using Limits = TierRouteLimits;
  const int64_t energies = gate.energy_groups() * gate.energy_dim();
  return options.fused && options.train &&
         options.source == RouteSource::kGate && options.tau == kNone &&
         gate.bias_use() != HierarchicalRouterConfig::WEIGHT &&
         gate.weigh_by() != HierarchicalRouterConfig::SOFTMAX &&
         gate.fine_width() > 0 && gate.fine_width() <= Limits::kR &&
         energies > 0 && energies <= Limits::kEnergies &&
         num_experts <= Limits::kExperts && gate.k_max() <= Limits::kChosen;
}

Routing RoutedTier(GraphBuilder& b, const ModelConfig& config,
                   int64_t num_experts, ValueId x, ValueId bias) {
  const HierarchicalRouterConfig& gate = config.moe().hierarchical();
  const int64_t r = gate.fine_width();
  const int64_t energies = gate.energy_groups() * gate.energy_dim();
  TierGateOptions options;
  options.groups = gate.energy_groups();
  options.keep = CoarseSurvivors(gate, num_experts);
  options.attention_scale = 1 / std::sqrt(static_cast<double>(r));
  options.affinity_scale = 1 / static_cast<double>(r);
  options.add_coarse = gate.add_coarse();
  options.tau = gate.tau();
  options.k_min = gate.k_min();
  options.k_max = gate.k_max();
  options.normalize = true;
  options.floor = kWorthFloor;
  const ValueId token = Linear(
      b, x, Weight(b, "gate.token.weight", energies + r, config.d_model()));
  const ValueId key =
      Weight(b, "gate.key.weight", num_experts, gate.energy_groups());
  const TierRouteResult route = TierRoute(
      b, token, key, bias,
      MakeExpertSide(b, config, num_experts, /*fused=*/true), options);
  Routing routing;
  routing.bias = bias;
  routing.expert = route.expert;
  routing.weight = route.weight;
  const auto add = [&](ValueId loss, double weight) {
    if (weight > 0) routing.losses.push_back({loss, weight});
  };
  add(route.distill, gate.distill_weight());
  add(route.cost, gate.cost_weight());
  add(route.balance, gate.balance_weight());
  return routing;
}

}  // namespace

Routing FlatGate(GraphBuilder& b, const ModelConfig& config, ValueId x,
                 const GateOptions& options) {
  const FlatRouterConfig& gate = config.moe().flat();
  const int64_t num_experts = gate.num_experts();
  Routing routing;
  const ValueId logits =
      Linear(b, x, Weight(b, "gate.weight", num_experts, config.d_model()));
  const ValueId p = gate.score() == FlatRouterConfig::SIGMOID
                        ? Sigmoid(b, logits)
                        : MaskedSoftmax(b, logits, /*mask=*/kNone, 1.0);
  if (gate.correction_bias()) {
    routing.bias = b.State(absl::StrCat(b.Scoped("gate"), kFlatBiasSuffix),
                           b.compute(), {Static(num_experts)});
  }
  const bool lists_all = gate.choice() == FlatRouterConfig::EXPERT_CHOICE;
  routing.expert =
      options.source == RouteSource::kGate
          ? FlatChoice(b, gate, p, routing.bias)
          : GivenChoice(b, options, p, lists_all ? num_experts : gate.k(),
                        gate.k(), /*may_leave=*/false)
                .expert;
  routing.weight = SelectedWeight(
      b, p, routing.expert,
      {gate.normalize(), /*floor=*/0, gate.scale() == 0 ? 1.0 : gate.scale()});
  if (!options.train) return routing;
  if (gate.balance_weight() > 0) {
    routing.losses.push_back(
        {BalanceLoss(b, p, routing.expert,
                     gate.balance_per_sequence() ? options.seq_start : kNone),
         gate.balance_weight()});
  }
  if (gate.z_weight() > 0) {
    routing.losses.push_back({ZLoss(b, logits), gate.z_weight()});
  }
  return routing;
}

Routing TierGate(GraphBuilder& b, const ModelConfig& config,
                 int64_t num_experts, ValueId x, const GateOptions& options) {
  const HierarchicalRouterConfig& gate = config.moe().hierarchical();
  Routing routing;
  routing.bias = b.State(absl::StrCat(b.Scoped("gate"), kBiasSuffix),
                         b.compute(), {Static(num_experts)});
  if (IsRouted(gate, num_experts, options)) {
    return RoutedTier(b, config, num_experts, x, routing.bias);
  }

  // Coarse: the bias enters here too, so that a dropped expert can come back.
  const TokenSide token = ProjectToken(b, config, x);
  const ValueId signature =
      EnergySignature(b, token.energies, gate.energy_groups());
  const ValueId coarse =
      Linear(b, signature,
             Weight(b, "gate.key.weight", num_experts, gate.energy_groups()));
  const bool on_weight = gate.bias_use() == HierarchicalRouterConfig::WEIGHT;
  const ValueId choice_bias = on_weight ? kNone : routing.bias;
  const ValueId mask = CoarseFilter(b, Sigmoid(b, coarse), choice_bias,
                                    CoarseSurvivors(gate, num_experts));

  ValueId affinity = coarse;
  if (gate.fine_width() > 0) {
    affinity =
        FineAffinity(b, config, num_experts, options.fused, token.query, mask);
    if (gate.add_coarse()) affinity = Add(b, affinity, coarse);
  }
  const ValueId p = Sigmoid(b, affinity);

  // Adjust.
  AdaptiveSelectOptions select;
  select.tau = gate.tau();
  select.k_min = gate.k_min();
  select.k_max = gate.k_max();
  select.exit_threshold = options.train ? 0 : gate.exit_threshold();
  select.tau_value = options.tau;
  const Selection selection =
      options.source == RouteSource::kGate
          ? AdaptiveSelect(b, p, mask, choice_bias, select)
          : GivenChoice(b, options, p, gate.k_max(), gate.k_max(),
                        /*may_leave=*/select.exit_threshold > 0);
  routing.expert = selection.expert;
  routing.stay = selection.stay;
  // A mixture, unless p is small altogether: then the tier says little, and
  // leaving it changes little.
  routing.weight =
      SelectedWeight(b, on_weight ? BiasedScore(b, p, routing.bias) : p,
                     routing.expert, {/*normalize=*/true, kWorthFloor, 1.0});
  if (gate.weigh_by() == HierarchicalRouterConfig::SOFTMAX) {
    // Sharper: the last expert chosen counts little, so that a token moves
    // little where the choice changes. The sum stays what it was.
    const ValueId worth = CarryWeight(b, routing.weight, kNone).carry;
    const ValueId share =
        SelectedWeight(b, MaskedSoftmax(b, affinity, mask, 1.0), routing.expert,
                       {/*normalize=*/true, /*floor=*/0, 1.0});
    routing.weight = CarryWeight(b, share, worth).weight;
  }
  if (options.train && gate.distill_weight() > 0) {
    routing.losses.push_back(
        {CoarseDistill(b, coarse, p, mask), gate.distill_weight()});
  }
  if (options.train && gate.cost_weight() > 0) {
    routing.losses.push_back({ExpectedCost(b, p, mask), gate.cost_weight()});
  }
  if (options.train && gate.balance_weight() > 0) {
    // Of all experts, dropped ones too, so that those are drawn in. A bias
    // alone leaves p unbalanced and then decides the choice in its place.
    const ValueId share = MaskedSoftmax(b, affinity, /*mask=*/kNone, 1.0);
    routing.losses.push_back(
        {BalanceLoss(b, share, routing.expert, /*seq_start=*/kNone),
         gate.balance_weight()});
  }
  return routing;
}

std::string LoadName(absl::string_view gate) {
  return absl::StrCat(gate, kLoadSuffix);
}

absl::string_view GateOfLoad(absl::string_view state) {
  return absl::ConsumeSuffix(&state, kLoadSuffix) ? state : "";
}

void ControlLoad(GraphBuilder& b, const ModelConfig& config,
                 absl::string_view gate, ValueId load) {
  const int64_t num_experts = b.graph().value(load).type.dims[0].bound - 1;
  const auto state = [&](absl::string_view name) {
    return b.State(absl::StrCat(gate, name), b.compute(),
                   {Static(num_experts)});
  };
  if (config.moe().has_flat()) {
    const FlatRouterConfig& flat = config.moe().flat();
    if (flat.bias_update_rate() > 0) {
      SignBias(b, load, state(kFlatBiasSuffix), flat.bias_update_rate());
    }
    return;
  }
  const LoadControl& control = config.moe().hierarchical().load();
  LoadBias(b, load, state(".load_ema"), state(".load_integral"),
           state(kBiasSuffix),
           {control.ema_decay(), control.gain_p(), control.gain_i(),
            control.max_bias()});
}

}  // namespace strata
