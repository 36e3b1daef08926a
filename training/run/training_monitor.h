// The trainer's watch over itself, step by step, by the rules that the server
// has too (core/monitor): how evenly ranks are used, whether experts starve or
// drift, where gradients vanish, whether the loss rises again (E3, E4).
//
//   StepMetrics, loads of the gates   -> figures of the step, for its log line
//                                     -> alarms and rebalancings, a line each
//
// Ranks are those of ep, with the experts that live balancing gave them; with
// one, eight virtual ones with a spare slot each, for which the balancer is
// called, so that a run says how its experts would have been spread. No weight
// moves here.

#ifndef TRAINING_RUN_TRAINING_MONITOR_H_
#define TRAINING_RUN_TRAINING_MONITOR_H_

#include <cstdint>
#include <optional>
#include <utility>
#include <vector>

#include "absl/time/time.h"
#include "absl/types/span.h"
#include "core/monitor/alarm_board.h"
#include "core/monitor/expert_use.h"
#include "core/monitor/rank_speed.h"
#include "core/monitor/watch.h"
#include "core/parallel/mesh.h"
#include "core/parallel/placement.h"
#include "nlohmann/json.hpp"
#include "training/metrics.h"

namespace strata {

inline constexpr char kSlowRankAlarm[] = "slow_rank";

// Metrics that rules may name, beside those of gates (core/monitor/watch.h):
// gradient_vanishing (the model's index, core/monitor/gradient_flow.h),
// loss_over_best (a fading mean of the loss over the least that it has been),
// step_seconds, slowest_rank (core/monitor/rank_speed.h).
std::vector<AlarmRule> DefaultTrainingRules();

class TrainingMonitor {
 public:
  // Gates of so many experts each; `ranks` that share them out, 1: none do,
  // with `spare` slots each.
  TrainingMonitor(std::vector<int> num_experts, int ranks,
                  std::vector<AlarmRule> rules = DefaultTrainingRules(),
                  int spare = 0);

  // Where experts are from the next step on, by gate.
  void SetPlacements(std::vector<Placement> placements) {
    watch_.SetPlacements(std::move(placements));
  }

  // Takes a step. Returns its figures: "tier_activation" (experts that a token
  // takes over those there are, by tier), "rank_utilisation_spread",
  // "expert_load_drift", "vanishing_index" by layer.
  nlohmann::json Observe(const StepMetrics& metrics,
                         absl::Span<const GateUse> gates, absl::Time now);

  // Takes what each rank of a mesh worked in a window (SpeedWatch); the ranks
  // are always of the same mesh. Who is slowest, and by how much.
  RankSpeed::Slowest ObserveRanks(const MeshShape& mesh,
                                  absl::Span<const double> own, absl::Time now);

  // What has happened since it was last asked; Watch::TakeEvents.
  std::vector<nlohmann::ordered_json> TakeEvents() {
    return watch_.TakeEvents();
  }
  const Watch& watch() const { return watch_; }

 private:
  Watch watch_;
  std::optional<RankSpeed> speed_;  // Of ranks of a mesh.
  double mean_loss_ = 0;
  double best_loss_ = 0;
  int64_t num_steps_ = 0;
};

}  // namespace strata

#endif  // TRAINING_RUN_TRAINING_MONITOR_H_
