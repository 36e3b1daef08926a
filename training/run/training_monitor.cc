#include "training/run/training_monitor.h"

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <utility>
#include <vector>

#include "absl/time/time.h"
#include "absl/types/span.h"
#include "core/monitor/alarm_board.h"
#include "core/monitor/expert_use.h"
#include "core/monitor/gradient_flow.h"
#include "core/monitor/rank_balance.h"
#include "core/monitor/rank_speed.h"
#include "core/monitor/watch.h"
#include "core/parallel/mesh.h"
#include "nlohmann/json.hpp"
#include "training/metrics.h"

namespace strata {
namespace {

using Json = nlohmann::json;

constexpr int kVirtualRanks = 8;
constexpr double kLossMemory = 0.05;  // Weight of a step in the fading mean.

RankBalanceOptions RanksOf(int ranks, int spare) {
  RankBalanceOptions options;
  options.num_ranks = ranks > 1 ? ranks : kVirtualRanks;
  options.spare_slots = ranks > 1 ? spare : 1;
  return options;
}

}  // namespace

std::vector<AlarmRule> DefaultTrainingRules() {
  using Kind = AlarmRule::Kind;
  return {
      UtilisationSpreadRule(),
      // A layer with a thousandth of another's gradient learns nothing.
      MakeRule("gradients_vanish", "gradient_vanishing", Kind::kAbove, 3),
      MakeRule("loss_rises", "loss_over_best", Kind::kAbove, 1.1),
      // Six mean deviations: of noise as of a normal distribution, never.
      MakeRule("experts_starve", kStarvedShareMetric, Kind::kBand, 6),
      MakeRule("experts_drift", kLoadDriftMetric, Kind::kBand, 6),
      MakeRule("slow_steps", "step_seconds", Kind::kBand, 6),
      // Less is noise, where ranks share a machine with others.
      MakeRule(kSlowRankAlarm, "slowest_rank", Kind::kAbove, 1.3),
  };
}

TrainingMonitor::TrainingMonitor(std::vector<int> num_experts, int ranks,
                                 std::vector<AlarmRule> rules, int spare)
    : watch_(std::move(rules), /*balances=*/ranks <= 1) {
  watch_.SetGates(std::move(num_experts), RanksOf(ranks, spare));
}

Json TrainingMonitor::Observe(const StepMetrics& metrics,
                              absl::Span<const GateUse> gates, absl::Time now) {
  if (!gates.empty()) watch_.ObserveGates(gates, now);
  watch_.Judge("gradient_vanishing", VanishingIndex(metrics.layer_grad_norms),
               now);
  // Of the first steps the mean is over these.
  ++num_steps_;
  const double weight =
      std::max(kLossMemory, 1.0 / static_cast<double>(num_steps_));
  mean_loss_ += weight * (metrics.loss - mean_loss_);
  best_loss_ = num_steps_ == 1 ? mean_loss_ : std::min(best_loss_, mean_loss_);
  if (best_loss_ > 0) {
    watch_.Judge("loss_over_best", mean_loss_ / best_loss_, now);
  }
  watch_.Judge("step_seconds", metrics.seconds, now);

  const Watch::Figures& figures = watch_.figures();
  Json tiers = Json::array();
  for (const TierUse& tier : figures.use.tiers) {
    tiers.push_back(tier.activation_rate);
  }
  const auto& norms = metrics.layer_grad_norms;
  const double largest =
      norms.empty() ? 0 : *std::max_element(norms.begin(), norms.end());
  Json index = Json::array();
  for (const double norm : norms) {
    index.push_back(VanishingIndex(norm, largest));
  }
  return {{"tier_activation", std::move(tiers)},
          {"rank_utilisation_spread", figures.spread},
          {"expert_load_drift", figures.use.drift},
          {"vanishing_index", std::move(index)}};
}

RankSpeed::Slowest TrainingMonitor::ObserveRanks(const MeshShape& mesh,
                                                 absl::Span<const double> own,
                                                 absl::Time now) {
  const int ranks = mesh.size(), of_stage = mesh.dp * mesh.ep;
  if (!speed_) {
    std::vector<int> stages(ranks);
    for (int r = 0; r < ranks; ++r) stages[r] = r / of_stage;
    speed_.emplace(std::move(stages));
  }
  std::vector<double> rows;
  if (mesh.ep > 1 && watch_.balance() != nullptr &&
      !watch_.balance()->rank_rows().empty()) {
    for (int r = 0; r < ranks; ++r) {
      rows.push_back(watch_.balance()->rank_rows()[r % mesh.ep]);
    }
  }
  const RankSpeed::Slowest slowest = speed_->Observe(own, rows);
  watch_.Judge("slowest_rank", slowest.times, now);
  return slowest;
}

}  // namespace strata
