// What watches a router: the figures of its windows, the rules over them and
// over whatever else is judged, and the balancer that one of them calls. The
// server's monitor and the trainer's are each one of these and what they feed
// it.
//
//   window of gates   ExpertUseMonitor, RankBalance      -> figures()
//     |  metrics rank_utilisation_spread, expert_load_drift,
//     |  starved_expert_share
//     v
//   AlarmBoard                                           -> TakeEvents()
//     |  rank_utilisation_spread raised
//     v
//   RankBalance::Rebalance                               -> TakeEvents()

#ifndef CORE_MONITOR_WATCH_H_
#define CORE_MONITOR_WATCH_H_

#include <cstdint>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "absl/types/span.h"
#include "core/monitor/alarm_board.h"
#include "core/monitor/expert_use.h"
#include "core/monitor/rank_balance.h"
#include "core/parallel/placement.h"
#include "nlohmann/json.hpp"

namespace strata {

// Metrics of gates that rules may name.
inline constexpr char kLoadDriftMetric[] = "expert_load_drift";
inline constexpr char kStarvedShareMetric[] = "starved_expert_share";

AlarmRule MakeRule(std::string name, std::string metric, AlarmRule::Kind kind,
                   double threshold);

// {"alarm", "state": "raised" or "cleared", "time", "metric", "value", "low",
// "high", "message"}; null where a number is not finite.
nlohmann::ordered_json ToJson(const Alarm& alarm);

// Not for several threads.
class Watch {
 public:
  struct Figures {
    RouterUse use;
    double spread = 0, max_over_mean = 1, worst_max_over_mean = 1;
  };

  // `balances`: whether the balancer is called; if not, ranks keep the experts
  // that they begin with.
  explicit Watch(std::vector<AlarmRule> rules, bool balances = true)
      : board_(std::move(rules)), balances_(balances) {}

  // Gates of so many experts each, from now on; alarms stay. Without figures of
  // ranks where the options do not fit (RankBalance::Create).
  void SetGates(std::vector<int> num_experts,
                const RankBalanceOptions& options);

  // What all gates did since it was last called. A window goes on until its
  // experts have eight rows each, in the mean; before, it would say little of
  // how loads are spread, and judges nothing.
  void ObserveGates(absl::Span<const GateUse> gates, absl::Time now);

  // Any other metric.
  void Judge(absl::string_view metric, double value, absl::Time now);

  // Calls the balancer, as the rule does.
  void Rebalance();
  // Null without figures of ranks.
  const RankBalance* balance() const {
    return balance_.has_value() ? &*balance_ : nullptr;
  }
  // RankBalance::SetPlacements, if there are figures of ranks.
  void SetPlacements(std::vector<Placement> placements) {
    if (balance_.has_value()) balance_->SetPlacements(std::move(placements));
  }

  // What has happened since it was last asked: alarms (above), and
  // {"rebalance": "done" or "failed", ...} with the spread before and after.
  std::vector<nlohmann::ordered_json> TakeEvents();

  // Of the latest window.
  const Figures& figures() const { return figures_; }
  std::vector<Alarm> Active() const { return board_.Active(); }
  int64_t num_rebalances() const { return num_rebalances_; }
  int64_t slots_changed() const { return slots_changed_; }

 private:
  AlarmBoard board_;
  bool balances_;
  std::vector<GateUse> window_;  // So far.
  ExpertUseMonitor use_;
  std::optional<RankBalance> balance_;
  Figures figures_;
  int64_t num_rebalances_ = 0;
  int64_t slots_changed_ = 0;
  std::vector<nlohmann::ordered_json> events_;
};

}  // namespace strata

#endif  // CORE_MONITOR_WATCH_H_
