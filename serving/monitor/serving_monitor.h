// The server's watch over itself: figures of experts and ranks for /metrics,
// rules and their alarms, and the balancer that one of them calls.
//
//   every period   sample: counts of the engine, loads of the gates
//     |  differences since the last sample: a window; of the gates, since
//     |  enough was routed to say something
//     |  expert use, rank balance (core/monitor)           -> /metrics
//     |  rules (core/monitor/alarm_board.h)                -> /alarms, log,
//     |                                                       webhook
//     v  spread of rank utilisation above 0.15             -> Rebalance
//
// A window without requests is no sample of what only requests show.

#ifndef SERVING_MONITOR_SERVING_MONITOR_H_
#define SERVING_MONITOR_SERVING_MONITOR_H_

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "core/monitor/alarm_board.h"
#include "core/monitor/rank_balance.h"
#include "core/monitor/watch.h"
#include "nlohmann/json.hpp"
#include "serving/engine/engine.h"

namespace strata {

struct MonitorOptions {
  absl::Duration period = absl::Seconds(5);
  // Of what serves: as ranks share a layer's experts. One machine has virtual
  // ones.
  RankBalanceOptions ranks;
  std::vector<AlarmRule> rules;  // DefaultServingRules() if empty.
  // Gets a JSON object for each alarm that is raised or cleared.
  std::function<void(const nlohmann::ordered_json&)> on_alarm;
};

// Metrics that rules may name: rank_utilisation_spread, expert_load_drift,
// starved_expert_share, kv_cache_usage, requests_waiting, seconds_per_token (a
// step's time over the tokens it drew), failed_share (of answers that ended).
std::vector<AlarmRule> DefaultServingRules();

struct MonitorSample {
  std::string version;  // Of the model; another begins anew.
  EngineStats stats;
  std::vector<GateLoad> gates;
};

class ServingMonitor {
 public:
  explicit ServingMonitor(MonitorOptions options);
  ~ServingMonitor();

  // Samples each period on a thread of its own, until the monitor goes.
  void Start(std::function<MonitorSample()> sample);

  // Takes one sample; what Start does each period.
  void Observe(const MonitorSample& sample, absl::Time now);

  // {"alarms": [...], "rebalances": n, ...} for /alarms.
  nlohmann::ordered_json Alarms() const;

  // Lines of Prometheus' text form.
  std::string MetricsText(const std::string& model) const;

  double spread() const;
  int64_t num_rebalances() const;

 private:
  void ObserveGates(const MonitorSample& sample, absl::Time now)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  const MonitorOptions options_;
  mutable absl::Mutex mutex_;
  Watch watch_ ABSL_GUARDED_BY(mutex_);
  std::optional<MonitorSample> last_ ABSL_GUARDED_BY(mutex_);
  bool ending_ ABSL_GUARDED_BY(mutex_) = false;
  std::thread thread_;
};

}  // namespace strata

#endif  // SERVING_MONITOR_SERVING_MONITOR_H_
