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
#include "core/ops/gate.h"
#include "core/ops/grouped_matmul.h"
#include "core/ops/matmul.h"
#include "core/ops/norm.h"

namespace strata {
namespace {

std::string OutputName(const RouterValues& router, absl::string_view what) {
  return absl::StrCat("router.", router.layer, ".", router.tier, ".", what);
}

ValueId Norm(GraphBuilder& b, const ModelConfig& config, ValueId h,
             absl::string_view name) {
  return RmsNorm(b, h,
                 b.Parameter(b.Scoped(absl::StrCat(name, ".weight")),
                             {Static(config.d_model())}),
                 config.norm_eps());
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

// The experts that `routing` chose, run on x and summed per token: [t, d].
ValueId Experts(GraphBuilder& b, int64_t d, int64_t width, int64_t num_experts,
                const Routing& routing, ValueId x, RouterValues& router) {
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
  return CombineRows(b, y, plan, routing.weight);
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
  const Routing routing = FlatGate(b, config, x, options.gate);
  ValueId y = Experts(b, config.d_model(), moe.expert_width(),
                      router.num_experts, routing, x, router);
  router.losses = routing.losses;
  if (options.gate.train) {
    ControlLoad(b, config, routing, router.num_experts, router.offset);
  }
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
  if (moe.shared_width() > 0) {
    GraphBuilder::Scope shared(b, "shared_experts");
    h = Add(b, h,
            SwiGluMlp(b, config.d_model(), moe.shared_width(),
                      Norm(b, config, h, "norm")));
  }

  // Tokens that have not left: all of them before the first tier.
  Compacted active;
  active.count = options.num_tokens;
  const int num_tiers = gate.tier_experts_size();
  const bool exits = gate.exit_threshold() > 0;
  ValueId carry = kNone;  // [t, 1], the share that is still on its way.
  for (int tier = 0; tier < num_tiers; ++tier) {
    GraphBuilder::Scope tier_scope(b, absl::StrCat("tier.", tier));
    const ValueId rows =
        active.index == kNone ? h : GatherRows(b, h, active.index);
    const ValueId x = Norm(b, config, rows, "norm");
    RouterValues router;
    router.layer = options.layer;
    router.tier = tier;
    router.num_experts = gate.tier_experts(tier);
    router.expert_width = moe.expert_width();
    router.tokens = active.count;
    Routing routing = TierGate(b, config, router.num_experts, x, options.gate);
    if (exits) {
      const Carried carried = CarryWeight(
          b, routing.weight,
          active.index == kNone ? carry : GatherRows(b, carry, active.index));
      routing.weight = carried.weight;
      carry = active.index == kNone
                  ? carried.carry
                  : b.Add1(kScatterRows, {carried.carry, active.index, carry});
    }
    const ValueId y = Experts(b, config.d_model(), moe.expert_width(),
                              router.num_experts, routing, x, router);
    router.losses = routing.losses;
    h = active.index == kNone ? Add(b, h, y) : AddRows(b, h, y, active.index);
    if (options.gate.train) {
      ControlLoad(b, config, routing, router.num_experts, router.offset);
    }
    if (exits && !options.gate.train && tier + 1 < num_tiers) {
      active = CompactRows(b, active.index, routing.stay);
    }
    routers.push_back(router);
  }
  return h;
}

}  // namespace

std::string RouterValues::OffsetName() const {
  return OutputName(*this, "offset");
}
std::string RouterValues::TokensName() const {
  return OutputName(*this, "tokens");
}
std::string RouterValues::ExpertName() const {
  return OutputName(*this, "expert");
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
