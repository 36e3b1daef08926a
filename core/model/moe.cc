#include "core/model/moe.h"

#include <algorithm>
#include <cstdint>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "core/graph/builder.h"
#include "core/graph/graph.h"
#include "core/model/config.pb.h"
#include "core/model/gate.h"
#include "core/ops/activation.h"
#include "core/ops/dispatch.h"
#include "core/ops/elementwise.h"
#include "core/ops/fed_norm.h"
#include "core/ops/gate.h"
#include "core/ops/grouped_matmul.h"
#include "core/ops/matmul.h"
#include "core/ops/norm.h"

namespace strata {
namespace {

std::string NameOf(const RouterValues& router, absl::string_view what) {
  return absl::StrCat("router.", router.layer, ".", router.tier, ".", what);
}

GateOptions WithInputNames(GateOptions options, const RouterValues& router) {
  options.replay_expert = router.ReplayExpertName();
  options.replay_stay = router.ReplayStayName();
  return options;
}

ValueId Norm(GraphBuilder& b, const ModelConfig& config, ValueId h,
             absl::string_view name) {
  return RmsNorm(b, h,
                 b.Parameter(b.Scoped(absl::StrCat(name, ".weight")),
                             {Static(config.d_model())}),
                 config.norm_eps());
}

// What a tier after the first reads where tiers are fed (TierInput): `before`
// is the block's x, `rows` that plus what the tiers before added. The gains of
// the second norm begin at zero (init.cc): until they have grown, the input of
// a gate does not move whenever the experts before it learn, which is what a
// gate learns badly from (docs/router.md, "What a tier reads").
ValueId FedInput(GraphBuilder& b, const ModelConfig& config, ValueId before,
                 ValueId rows, bool fused) {
  if (fused) {
    const Dims width = {Static(config.d_model())};
    const ValueId feed = b.Parameter(b.Scoped("feed.weight"), width);
    return FedNorm(b, before, rows, b.Parameter(b.Scoped("norm.weight"), width),
                   feed, config.norm_eps());
  }
  const ValueId added = Add(b, rows, Scale(b, before, -1));
  return Add(b, Norm(b, config, before, "norm"),
             Norm(b, config, added, "feed"));
}

ValueId SwiGluMlp(GraphBuilder& b, int64_t d, int64_t width, ValueId x,
                  bool bias = false) {
  const ValueId gate_up = b.Parameter(b.Scoped("gate_up_proj.weight"),
                                      {Static(2 * width), Static(d)});
  const ValueId down =
      b.Parameter(b.Scoped("down_proj.weight"), {Static(d), Static(width)});
  const auto add_bias = [&](absl::string_view name, int64_t n, ValueId y) {
    return bias ? AddBias(b, y, b.Parameter(b.Scoped(name), {Static(n)})) : y;
  };
  const ValueId hidden = SwiGlu(
      b, add_bias("gate_up_proj.bias", 2 * width, Linear(b, x, gate_up)));
  return add_bias("down_proj.bias", d, Linear(b, hidden, down));
}

// The rows of `num_slots` experts a token side by side, projected back: [t, d].
// `sum` is their sum. A slot is the rows of the others left out; the first is
// the sum less the others, so that the tokens' weights are read once as a
// whole.
ValueId ProjectSlots(GraphBuilder& b, int64_t d, int64_t num_slots,
                     const DispatchPlanResult& plan, ValueId weight, ValueId y,
                     ValueId sum) {
  const ValueId projection = b.Parameter(b.Scoped("concat_proj.weight"),
                                         {Static(d), Static(num_slots * d)});
  const auto project = [&](int64_t slot, ValueId rows) {
    return Linear(b, rows, SliceColumns(b, projection, slot * d, d));
  };
  ValueId first = sum;
  ValueId projected = kNone;
  for (int64_t slot = 1; slot < num_slots; ++slot) {
    const ValueId one =
        PlaceColumns(b, SliceColumns(b, weight, slot, 1), slot, num_slots);
    const ValueId rows = CombineRows(b, y, plan, one);
    first = Add(b, first, Scale(b, rows, -1));
    projected = projected == kNone ? project(slot, rows)
                                   : Add(b, projected, project(slot, rows));
  }
  return projected == kNone ? project(0, first)
                            : Add(b, project(0, first), projected);
}

// The experts that `routing` chose, run on x and combined per token: [t, d];
// summed, or over `concat_slots` if that is not 0.
ValueId Experts(GraphBuilder& b, int64_t d, int64_t width, int64_t num_experts,
                int64_t concat_slots, const Routing& routing, ValueId x,
                RouterValues& router) {
  const ValueId gate_up =
      b.Parameter(b.Scoped("experts.gate_up_proj.weight"),
                  {Static(num_experts), Static(2 * width), Static(d)});
  const ValueId down =
      b.Parameter(b.Scoped("experts.down_proj.weight"),
                  {Static(num_experts), Static(d), Static(width)});
  const DispatchPlanResult plan = DispatchPlan(b, routing.expert, num_experts);
  const ValueId rows = DispatchRows(b, x, plan);
  const ValueId hidden =
      SwiGlu(b, GroupedMatMul(b, rows, gate_up, plan.offset));
  const ValueId y = GroupedMatMul(b, hidden, down, plan.offset);
  router.offset = plan.offset;
  router.expert = routing.expert;
  router.slot_row = plan.slot_row;
  router.output = y;
  const ValueId sum = CombineRows(b, y, plan, routing.weight);
  return concat_slots == 0
             ? sum
             : ProjectSlots(b, d, concat_slots, plan, routing.weight, y, sum);
}

ValueId FlatBlock(GraphBuilder& b, const ModelConfig& config,
                  const MoeOptions& options, ValueId h,
                  std::vector<RouterValues>& routers) {
  const MoeConfig& moe = config.moe();
  const ValueId x = Norm(b, config, h, "post_attention_layernorm");
  GraphBuilder::Scope scope(b, "mlp");
  RouterValues router;
  router.layer = options.layer;
  router.num_experts = moe.flat().num_experts();
  router.expert_width = moe.expert_width();
  router.tokens = options.num_tokens;
  router.gate = b.Scoped("gate");
  const Routing routing =
      FlatGate(b, config, x, WithInputNames(options.gate, router));
  ValueId y =
      Experts(b, config.d_model(), moe.expert_width(), router.num_experts,
              /*concat_slots=*/0, routing, x, router);
  router.losses = routing.losses;
  if (moe.shared_width() > 0) {
    GraphBuilder::Scope shared(b, "shared_experts");
    y = Add(b, y, SwiGluMlp(b, config.d_model(), moe.shared_width(), x));
  }
  routers.push_back(router);
  return Add(b, h, y);
}

ValueId HierarchicalBlock(GraphBuilder& b, const ModelConfig& config,
                          const MoeOptions& options, ValueId h,
                          std::vector<RouterValues>& routers) {
  const MoeConfig& moe = config.moe();
  const HierarchicalRouterConfig& gate = moe.hierarchical();
  GraphBuilder::Scope scope(b, "mlp");
  const ValueId block_input = h;
  ValueId beside = kNone;  // What the shared expert adds.
  if (moe.shared_width() > 0) {
    GraphBuilder::Scope shared(b, "shared_experts");
    beside = SwiGluMlp(b, config.d_model(), moe.shared_width(),
                       Norm(b, config, h, "norm"));
  }

  // Tokens that have not left: all of them before the first tier.
  Compacted active;
  active.count = options.num_tokens;
  const int num_tiers = gate.tier_experts_size();
  const bool exits = gate.exit_threshold() > 0;
  const bool fed = gate.tier_input() == HierarchicalRouterConfig::FED;
  const int64_t concat_slots =
      gate.combine() == HierarchicalRouterConfig::CONCAT ? gate.k_max() : 0;
  ValueId carry = kNone;  // [t, 1], the share that is still on its way.
  for (int tier = 0; tier < num_tiers; ++tier) {
    GraphBuilder::Scope tier_scope(b, absl::StrCat("tier.", tier));
    const auto of_active = [&](ValueId all) {
      return active.index == kNone ? all : GatherRows(b, all, active.index);
    };
    const ValueId rows = of_active(h);
    const ValueId x = fed && tier > 0
                          ? FedInput(b, config, of_active(block_input), rows,
                                     options.gate.fused)
                          : Norm(b, config, rows, "norm");
    RouterValues router;
    router.layer = options.layer;
    router.tier = tier;
    router.num_experts = gate.tier_experts(tier);
    router.expert_width = moe.expert_width();
    router.tokens = active.count;
    router.gate = b.Scoped("gate");
    Routing routing = TierGate(b, config, router.num_experts, x,
                               WithInputNames(options.gate, router));
    if (exits) {
      const Carried carried = CarryWeight(
          b, routing.weight, carry == kNone ? kNone : of_active(carry));
      routing.weight = carried.weight;
      carry = active.index == kNone
                  ? carried.carry
                  : b.Add1(kScatterRows, {carried.carry, active.index, carry});
    }
    if (gate.scale() > 0) {
      routing.weight = Scale(b, routing.weight, gate.scale());
    }
    const ValueId y =
        Experts(b, config.d_model(), moe.expert_width(), router.num_experts,
                concat_slots, routing, x, router);
    router.losses = routing.losses;
    h = active.index == kNone ? Add(b, h, y) : AddRows(b, h, y, active.index);
    if (exits && !options.gate.train && routing.stay != kNone &&
        tier + 1 < num_tiers) {
      active = CompactRows(b, active.index, routing.stay);
    }
    routers.push_back(router);
  }
  return beside == kNone ? h : Add(b, h, beside);
}

}  // namespace

std::string RouterValues::OffsetName() const { return NameOf(*this, "offset"); }
std::string RouterValues::TokensName() const { return NameOf(*this, "tokens"); }
std::string RouterValues::ExpertName() const { return NameOf(*this, "expert"); }
std::string RouterValues::ReplayExpertName() const {
  return NameOf(*this, "replay.expert");
}
std::string RouterValues::ReplayStayName() const {
  return NameOf(*this, "replay.stay");
}

ValueId DenseBlock(GraphBuilder& b, const ModelConfig& config, int64_t width,
                   ValueId h) {
  const ValueId x = Norm(b, config, h, "post_attention_layernorm");
  GraphBuilder::Scope scope(b, "mlp");
  return SwiGluMlp(b, config.d_model(), width, x, config.mlp_bias());
}

ValueId MoeBlock(GraphBuilder& b, const ModelConfig& config,
                 const MoeOptions& options, ValueId h,
                 std::vector<RouterValues>& routers) {
  return config.moe().has_hierarchical()
             ? HierarchicalBlock(b, config, options, h, routers)
             : FlatBlock(b, config, options, h, routers);
}

}  // namespace strata
