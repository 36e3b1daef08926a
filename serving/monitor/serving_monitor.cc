#include "serving/monitor/serving_monitor.h"

#include <cstddef>
#include <cstdint>
#include <functional>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "core/monitor/alarm_board.h"
#include "core/monitor/expert_use.h"
#include "core/monitor/watch.h"
#include "nlohmann/json.hpp"
#include "serving/engine/engine.h"

namespace strata {
namespace {

using Json = nlohmann::ordered_json;

std::string Quoted(const std::string& text) {
  std::string quoted = "\"";
  for (const char c : text) {
    if (c == '"' || c == '\\') quoted += '\\';
    quoted += c == '\n' ? ' ' : c;
  }
  return quoted + "\"";
}

}  // namespace

std::vector<AlarmRule> DefaultServingRules() {
  using Kind = AlarmRule::Kind;
  return {
      UtilisationSpreadRule(),
      MakeRule("cache_full", "kv_cache_usage", Kind::kAbove, 0.98),
      MakeRule("answers_fail", "failed_share", Kind::kAbove, 0.01),
      // Six mean deviations: of noise as of a normal distribution, never.
      MakeRule("experts_drift", "expert_load_drift", Kind::kBand, 6),
      MakeRule("experts_starve", "starved_expert_share", Kind::kBand, 6),
      MakeRule("slow_tokens", "seconds_per_token", Kind::kBand, 6),
      MakeRule("queue_grows", "requests_waiting", Kind::kAbove, 256),
  };
}

ServingMonitor::ServingMonitor(MonitorOptions options)
    : options_(std::move(options)),
      watch_(options_.rules.empty() ? DefaultServingRules() : options_.rules) {}

ServingMonitor::~ServingMonitor() {
  {
    absl::MutexLock lock(&mutex_);
    ending_ = true;
  }
  if (thread_.joinable()) thread_.join();
}

void ServingMonitor::Start(std::function<MonitorSample()> sample) {
  thread_ = std::thread([this, sample = std::move(sample)] {
    const auto ending = [this]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
      return ending_;
    };
    while (true) {
      Observe(sample(), absl::Now());
      absl::MutexLock lock(&mutex_);
      if (mutex_.AwaitWithTimeout(absl::Condition(&ending), options_.period)) {
        return;
      }
    }
  });
}

void ServingMonitor::Observe(const MonitorSample& sample, absl::Time now) {
  std::vector<Json> to_tell;
  {
    absl::MutexLock lock(&mutex_);
    // Another version has other experts: its windows begin anew. Counts of
    // answers go on over versions.
    const bool goes_on = last_.has_value() &&
                         last_->version == sample.version &&
                         last_->gates.size() == sample.gates.size();
    if (!goes_on) {
      std::vector<int> experts;
      for (const GateLoad& gate : sample.gates) {
        experts.push_back(static_cast<int>(gate.rows.size()));
      }
      watch_.SetGates(std::move(experts), options_.ranks);
    } else {
      ObserveGates(sample, now);
    }
    const EngineStats& stats = sample.stats;
    if (stats.num_blocks > 0) {
      // Blocks kept for their prefix are free for whoever needs them.
      watch_.Judge(
          "kv_cache_usage",
          static_cast<double>(stats.num_used_blocks - stats.num_kept_blocks) /
              static_cast<double>(stats.num_blocks),
          now);
    }
    watch_.Judge("requests_waiting", static_cast<double>(stats.num_waiting),
                 now);
    if (last_.has_value()) {
      const EngineStats& last = last_->stats;
      const int64_t tokens = stats.generated_tokens - last.generated_tokens;
      if (tokens > 0) {
        watch_.Judge("seconds_per_token",
                     (stats.step_seconds - last.step_seconds) /
                         static_cast<double>(tokens),
                     now);
      }
      int64_t ended = 0;
      for (int i = 0; i < kNumFinishReasons; ++i) {
        ended += stats.num_finished[i] - last.num_finished[i];
      }
      constexpr int kFailed = static_cast<int>(FinishReason::kFailed);
      if (ended > 0) {
        watch_.Judge("failed_share",
                     static_cast<double>(stats.num_finished[kFailed] -
                                         last.num_finished[kFailed]) /
                         static_cast<double>(ended),
                     now);
      }
    }
    last_ = sample;
    to_tell = watch_.TakeEvents();
  }
  if (!options_.on_alarm) return;
  for (const Json& alarm : to_tell) options_.on_alarm(alarm);
}

void ServingMonitor::ObserveGates(const MonitorSample& sample, absl::Time now) {
  std::vector<GateUse> window;
  for (size_t i = 0; i < sample.gates.size(); ++i) {
    const GateLoad& gate = sample.gates[i];
    const GateLoad& before = last_->gates[i];
    GateUse use;
    use.tier = gate.tier;
    use.tokens = gate.tokens - before.tokens;
    for (size_t e = 0; e < gate.rows.size(); ++e) {
      use.load.push_back(static_cast<double>(gate.rows[e] - before.rows[e]));
    }
    window.push_back(std::move(use));
  }
  if (!window.empty()) watch_.ObserveGates(window, now);
}

Json ServingMonitor::Alarms() const {
  absl::MutexLock lock(&mutex_);
  Json alarms = Json::array();
  for (const Alarm& alarm : watch_.Active()) alarms.push_back(ToJson(alarm));
  return {{"alarms", std::move(alarms)},
          {"rank_utilisation_spread", watch_.figures().spread},
          {"rebalances", watch_.num_rebalances()},
          {"slots_changed", watch_.slots_changed()}};
}

double ServingMonitor::spread() const {
  absl::MutexLock lock(&mutex_);
  return watch_.figures().spread;
}

int64_t ServingMonitor::num_rebalances() const {
  absl::MutexLock lock(&mutex_);
  return watch_.num_rebalances();
}

std::string ServingMonitor::MetricsText(const std::string& model) const {
  absl::MutexLock lock(&mutex_);
  std::string text;
  const std::string label = absl::StrCat("model_name=", Quoted(model));
  const auto head = [&](const char* name, const char* help, const char* type) {
    absl::StrAppend(&text, "# HELP strata:", name, " ", help,
                    "\n# TYPE strata:", name, " ", type, "\n");
  };
  const auto line = [&](const char* name, const std::string& more,
                        double value) {
    absl::StrAppend(&text, "strata:", name, "{", label, more, "} ", value,
                    "\n");
  };
  const auto one = [&](const char* name, const char* help, const char* type,
                       double value) {
    head(name, help, type);
    line(name, "", value);
  };
  const Watch::Figures& figures = watch_.figures();
  const RouterUse& use = figures.use;
  head("expert_activation_rate",
       "Experts that a token chose in a tier over those there are.", "gauge");
  for (size_t i = 0; i < use.tiers.size(); ++i) {
    line("expert_activation_rate", absl::StrCat(",tier=\"", i, "\""),
         use.tiers[i].activation_rate);
  }
  head("tier_reach_ratio", "Tokens that reached a tier over all.", "gauge");
  for (size_t i = 0; i < use.tiers.size(); ++i) {
    line("tier_reach_ratio", absl::StrCat(",tier=\"", i, "\""),
         use.tiers[i].reached);
  }
  head("rank_load_max_over_mean",
       "Largest load of a rank over the mean, by gate: mean and largest.",
       "gauge");
  line("rank_load_max_over_mean", ",over=\"mean\"", figures.max_over_mean);
  line("rank_load_max_over_mean", ",over=\"worst\"",
       figures.worst_max_over_mean);
  one("rank_utilisation_spread",
      "Standard deviation over ranks of load over the largest.", "gauge",
      figures.spread);
  one("expert_load_gini", "Inequality of experts' loads, mean over gates.",
      "gauge", use.balance.gini);
  one("expert_utilisation", "Mean load of experts over the largest.", "gauge",
      use.balance.utilisation);
  one("starved_expert_ratio", "Experts below a tenth of the mean load.",
      "gauge", use.balance.starved_share);
  one("expert_load_drift",
      "Share of choices that moved from what they have been.", "gauge",
      use.drift);
  one("rebalances_total", "Times that the balancer placed experts anew.",
      "counter", static_cast<double>(watch_.num_rebalances()));
  one("alarms_active", "Alarms that stand.", "gauge",
      static_cast<double>(watch_.Active().size()));
  return text;
}

}  // namespace strata
