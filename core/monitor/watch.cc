#include "core/monitor/watch.h"

#include <cmath>
#include <cstddef>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "absl/types/span.h"
#include "core/base/check.h"
#include "core/monitor/alarm_board.h"
#include "core/monitor/expert_use.h"
#include "core/monitor/rank_balance.h"
#include "nlohmann/json.hpp"

namespace strata {

using Json = nlohmann::ordered_json;

namespace {

// Rows below which a window says little of how loads are spread.
constexpr double kLeastRowsOfExpert = 8;

void Add(absl::Span<const GateUse> gates, std::vector<GateUse>& window) {
  CHECK_EQ(gates.size(), window.size());
  for (size_t g = 0; g < gates.size(); ++g) {
    window[g].tokens += gates[g].tokens;
    for (size_t e = 0; e < gates[g].load.size(); ++e) {
      window[g].load[e] += gates[g].load[e];
    }
  }
}

}  // namespace

AlarmRule MakeRule(std::string name, std::string metric, AlarmRule::Kind kind,
                   double threshold) {
  AlarmRule rule;
  rule.name = std::move(name);
  rule.metric = std::move(metric);
  rule.kind = kind;
  rule.threshold = threshold;
  return rule;
}

Json ToJson(const Alarm& alarm) {
  const auto bound = [](double x) {
    return std::isfinite(x) ? Json(x) : Json(nullptr);
  };
  return {{"alarm", alarm.rule},
          {"state", alarm.raised ? "raised" : "cleared"},
          {"time", absl::FormatTime(absl::RFC3339_sec, alarm.since,
                                    absl::UTCTimeZone())},
          {"metric", alarm.metric},
          {"value", bound(alarm.value)},
          {"low", bound(alarm.low)},
          {"high", bound(alarm.high)},
          {"message", Describe(alarm)}};
}

void Watch::SetGates(std::vector<int> num_experts,
                     const RankBalanceOptions& options) {
  use_ = ExpertUseMonitor();
  window_.clear();
  balance_.reset();
  absl::StatusOr<RankBalance> balance =
      RankBalance::Create(std::move(num_experts), options);
  if (balance.ok()) balance_ = *std::move(balance);
}

void Watch::ObserveGates(absl::Span<const GateUse> gates, absl::Time now) {
  if (window_.empty()) {
    window_.assign(gates.begin(), gates.end());
  } else {
    Add(gates, window_);
  }
  double rows = 0, experts = 0;
  for (const GateUse& gate : window_) {
    for (const double of_expert : gate.load) rows += of_expert;
    experts += static_cast<double>(gate.load.size());
  }
  if (experts == 0 || rows < kLeastRowsOfExpert * experts) return;
  const std::vector<GateUse> window = std::exchange(window_, {});
  figures_.use = use_.Observe(window);
  Judge(kLoadDriftMetric, figures_.use.drift, now);
  Judge(kStarvedShareMetric, figures_.use.balance.starved_share, now);
  if (!balance_.has_value()) return;
  std::vector<std::vector<double>> loads;
  for (const GateUse& gate : window) loads.push_back(gate.load);
  balance_->Observe(loads);
  figures_.spread = balance_->spread();
  figures_.max_over_mean = balance_->max_over_mean();
  figures_.worst_max_over_mean = balance_->worst_max_over_mean();
  Judge(UtilisationSpreadRule().metric, figures_.spread, now);
}

void Watch::Judge(absl::string_view metric, double value, absl::Time now) {
  for (const Alarm& alarm : board_.Observe(metric, value, now)) {
    events_.push_back(ToJson(alarm));
    if (alarm.raised && balances_ && metric == UtilisationSpreadRule().metric) {
      Rebalance();
    }
  }
}

void Watch::Rebalance() {
  if (!balance_.has_value()) return;
  const auto result = balance_->Rebalance();
  if (!result.ok()) {
    events_.push_back({{"rebalance", "failed"},
                       {"message", std::string(result.status().message())}});
    return;
  }
  ++num_rebalances_;
  slots_changed_ += result->slots_changed;
  events_.push_back({{"rebalance", "done"},
                     {"spread_before", result->spread_before},
                     {"spread_after", result->spread_after},
                     {"slots_changed", result->slots_changed}});
}

std::vector<Json> Watch::TakeEvents() { return std::exchange(events_, {}); }

}  // namespace strata
