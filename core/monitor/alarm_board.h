// Alarm rules over metrics that come as samples: what trainer and server watch
// themselves by.
//
//   above, below   a fixed threshold
//   band           what a metric mostly is, learned: mean and mean deviation
//                  with exponentially fading weights. A sample more than
//                  `threshold` deviations off the mean is outside
//
// A rule raises its alarm after `hold` samples in a row on the wrong side, and
// clears it after as many on the right one. A band learns from samples inside;
// those outside move it at a tenth of the speed, so that an alarm neither ends
// by itself at once nor stays for ever when a new level is the rule.

#ifndef CORE_MONITOR_ALARM_BOARD_H_
#define CORE_MONITOR_ALARM_BOARD_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/strings/string_view.h"
#include "absl/time/time.h"

namespace strata {

struct AlarmRule {
  enum class Kind { kAbove, kBelow, kBand };

  std::string name;
  std::string metric;
  Kind kind = Kind::kAbove;
  double threshold = 0;  // Of the metric; kBand: mean deviations.
  int hold = 3;          // Samples in a row.
  int warm_up = 30;      // kBand: samples before it judges.
  double memory = 0.05;  // kBand: weight of a new sample, in (0, 1].
};

// SPEC's fixed rule: the spread of rank utilisation (core/monitor/
// rank_balance.h) above 0.15, which calls the balancer.
inline constexpr double kMaxUtilisationSpread = 0.15;
AlarmRule UtilisationSpreadRule();

struct Alarm {
  std::string rule;
  std::string metric;
  double value = 0;          // Of the sample that raised or cleared it.
  double low = 0, high = 0;  // What is right: infinite where unbounded.
  absl::Time since;
  bool raised = false;  // False: it is over.
};

// "time_per_token is 0.31; 0.02 to 0.05 is right"
std::string Describe(const Alarm& alarm);

// Not for several threads.
class AlarmBoard {
 public:
  explicit AlarmBoard(std::vector<AlarmRule> rules);

  // Judges a sample by the rules of its metric; what changed. A value that is
  // not finite is on the wrong side of every rule, and teaches none.
  std::vector<Alarm> Observe(absl::string_view metric, double value,
                             absl::Time now);

  // The alarms that stand, oldest first.
  std::vector<Alarm> Active() const;

 private:
  struct Watch {
    AlarmRule rule;
    int64_t num_samples = 0;
    double mean = 0;
    double deviation = 0;  // Mean of |value - mean|.
    int streak = 0;        // Samples in a row that speak for a change.
    bool raised = false;
    Alarm alarm;
  };

  static void Bounds(const Watch& watch, double& low, double& high);
  static void Learn(Watch& watch, double value, bool inside);

  std::vector<Watch> watches_;
};

}  // namespace strata

#endif  // CORE_MONITOR_ALARM_BOARD_H_
