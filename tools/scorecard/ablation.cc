#include "tools/scorecard/ablation.h"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <functional>
#include <string>
#include <utility>
#include <vector>

#include "core/model/config.h"
#include "core/model/config.pb.h"
#include "core/model/count.h"
#include "nlohmann/json.hpp"
#include "tools/scorecard/claim.h"
#include "tools/scorecard/runs.h"
#include "tools/scorecard/variants.h"
#include "training/demo/report.h"

namespace strata {
namespace {

void UseOneTier(HierarchicalRouterConfig& gate) {
  int64_t experts = 0;
  for (const int64_t of_tier : gate.tier_experts()) experts += of_tier;
  gate.set_k_max(gate.k_max() * gate.tier_experts_size());
  gate.clear_tier_experts();
  gate.add_tier_experts(experts);
}

}  // namespace

std::vector<Ablation> AblationsOf(const ModelConfig& model, int64_t fixed_k) {
  using Gate = HierarchicalRouterConfig;
  std::vector<Ablation> ablations;
  ablations.push_back({{kWhole, model}, "the whole model"});
  const auto add = [&](const char* name, const char* what,
                       const std::function<void(Gate&)>& change) {
    ModelConfig changed = model;
    change(*changed.mutable_moe()->mutable_hierarchical());
    if (ToJson(changed) == ToJson(model)) return;
    ablations.push_back({{name, std::move(changed)}, what});
  };
  add("no-coarse", "no coarse filter", [](Gate& g) { g.set_coarse_keep(1); });
  add("plain-norm", "signature of one group: the plain norm", [](Gate& g) {
    g.set_energy_groups(1);
    g.set_energy_dim(0);
  });
  add("no-fine", "no fine stage", [](Gate& g) {
    g.set_fine_width(0);
    g.set_add_coarse(true);
  });
  add("no-bias", "no load bias", [](Gate& g) {
    g.mutable_load()->set_gain_p(0);
    g.mutable_load()->set_gain_i(0);
  });
  add("no-balance", "no balance loss",
      [](Gate& g) { g.set_balance_weight(0); });
  add("updated", "a tier reads the norm of what the tiers before left",
      [](Gate& g) { g.set_tier_input(Gate::UPDATED); });
  add("bias-on-weight", "load bias on the weights, not the choice",
      [](Gate& g) { g.set_bias_use(Gate::WEIGHT); });
  add("fixed-k", "a fixed number of experts", [&](Gate& g) {
    const int64_t k = std::min(fixed_k, g.k_max());
    g.set_k_min(k);
    g.set_k_max(k);
  });
  add("no-exit", "no early exit", [](Gate& g) { g.set_exit_threshold(0); });
  add("no-cost", "no cost loss", [](Gate& g) { g.set_cost_weight(0); });
  add("no-distill", "no distillation of the coarse stage",
      [](Gate& g) { g.set_distill_weight(0); });
  add("one-tier", "one tier of all experts", UseOneTier);
  add("concat", "outputs side by side, projected back",
      [](Gate& g) { g.set_combine(Gate::CONCAT); });
  return ablations;
}

int64_t MeanExpertsPerTier(const ModelConfig& model,
                           const std::vector<ScoredRun>& runs) {
  double share = 0;
  for (const ScoredRun& run : runs) {
    share += run.experts.active_share / static_cast<double>(runs.size());
  }
  const double experts = share * static_cast<double>(NumRoutedExperts(model)) /
                         model.moe().hierarchical().tier_experts_size();
  return std::max<int64_t>(1, std::lround(experts));
}

std::vector<AblationRow> AblationRows(const std::vector<Ablation>& ablations,
                                      const std::vector<ScoredRun>& runs,
                                      int64_t steps) {
  std::vector<AblationRow> rows;
  for (const Ablation& ablation : ablations) {
    const auto spread = [&](double (*value)(const ScoredRun&)) {
      return Compare(runs, "", kWhole, ablation.variant.name, value).ours;
    };
    AblationRow row;
    row.name = ablation.variant.name;
    row.what = ablation.what;
    row.parameters = CountParameters(ablation.variant.config);
    row.bits_per_byte = spread(BitsPerByte);
    row.more_bits = Compare(runs, "", kWhole, row.name, BitsPerByte,
                            Measure::Of::kDifference)
                        .ratio;
    row.flops_per_token = spread(FlopsPerToken);
    row.active_share = spread(ActiveShare);
    row.gini = spread(Gini);
    row.utilisation = spread(Utilisation);
    row.milliseconds =
        spread([](const ScoredRun& run) { return 1e3 * run.seconds; });
    row.milliseconds.mean /= static_cast<double>(steps);
    row.milliseconds.deviation /= static_cast<double>(steps);
    rows.push_back(std::move(row));
  }
  return rows;
}

nlohmann::json ToJson(const AblationRow& row) {
  return {{"name", row.name},
          {"what", row.what},
          {"parameters", row.parameters},
          {"bits_per_byte", ToJson(row.bits_per_byte)},
          {"more_bits_per_byte", ToJson(row.more_bits)},
          {"flops_per_token", ToJson(row.flops_per_token)},
          {"active_share", ToJson(row.active_share)},
          {"gini", ToJson(row.gini)},
          {"utilisation", ToJson(row.utilisation)},
          {"step_ms", ToJson(row.milliseconds)}};
}

}  // namespace strata
