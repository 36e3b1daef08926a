#include "core/monitor/alarm_board.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "core/base/check.h"

namespace strata {
namespace {

constexpr double kInfinity = std::numeric_limits<double>::infinity();
// A metric that hardly moves has a band of this share of its mean at least.
constexpr double kLeastShare = 0.02;
constexpr double kSpeedOutside = 0.1;

}  // namespace

AlarmRule UtilisationSpreadRule() {
  AlarmRule rule;
  rule.name = "rank_utilisation_spread";
  rule.metric = "rank_utilisation_spread";
  rule.kind = AlarmRule::Kind::kAbove;
  rule.threshold = kMaxUtilisationSpread;
  return rule;
}

std::string Describe(const Alarm& alarm) {
  const std::string right =
      alarm.low == -kInfinity   ? absl::StrCat("up to ", alarm.high)
      : alarm.high == kInfinity ? absl::StrCat("at least ", alarm.low)
                                : absl::StrCat(alarm.low, " to ", alarm.high);
  return absl::StrCat(alarm.metric, " is ", alarm.value, "; ", right,
                      " is right");
}

AlarmBoard::AlarmBoard(std::vector<AlarmRule> rules) {
  for (AlarmRule& rule : rules) {
    CHECK(rule.hold >= 1 && rule.memory > 0 && rule.memory <= 1) << rule.name;
    Watch watch;
    watch.rule = std::move(rule);
    watches_.push_back(std::move(watch));
  }
}

void AlarmBoard::Bounds(const Watch& watch, double& low, double& high) {
  low = -kInfinity;
  high = kInfinity;
  switch (watch.rule.kind) {
    case AlarmRule::Kind::kAbove:
      high = watch.rule.threshold;
      return;
    case AlarmRule::Kind::kBelow:
      low = watch.rule.threshold;
      return;
    case AlarmRule::Kind::kBand:
      if (watch.num_samples < watch.rule.warm_up) return;
      const double width =
          watch.rule.threshold *
          std::max(watch.deviation, kLeastShare * std::abs(watch.mean));
      low = watch.mean - width;
      high = watch.mean + width;
      return;
  }
}

void AlarmBoard::Learn(Watch& watch, double value, bool inside) {
  if (watch.num_samples == 0) watch.mean = value;
  // The first samples count alike; later ones by the memory.
  double weight = std::max(watch.rule.memory,
                           1 / static_cast<double>(watch.num_samples + 1));
  if (!inside) weight *= kSpeedOutside;
  // A jump is no noise: it would widen the band until it were inside.
  const double slower = inside ? 1 : kSpeedOutside;
  watch.deviation +=
      slower * weight * (std::abs(value - watch.mean) - watch.deviation);
  watch.mean += weight * (value - watch.mean);
  ++watch.num_samples;
}

std::vector<Alarm> AlarmBoard::Observe(absl::string_view metric, double value,
                                       absl::Time now) {
  std::vector<Alarm> changes;
  for (Watch& watch : watches_) {
    if (watch.rule.metric != metric) continue;
    double low = 0, high = 0;
    Bounds(watch, low, high);
    const bool inside = value >= low && value <= high;
    if (watch.rule.kind == AlarmRule::Kind::kBand && std::isfinite(value)) {
      Learn(watch, value, inside);
    }
    if (inside != watch.raised) {  // As it was.
      watch.streak = 0;
      continue;
    }
    if (++watch.streak < watch.rule.hold) continue;
    watch.streak = 0;
    watch.raised = !watch.raised;
    Alarm& alarm = watch.alarm;
    alarm.rule = watch.rule.name;
    alarm.metric = watch.rule.metric;
    alarm.value = value;
    alarm.low = low;
    alarm.high = high;
    alarm.since = now;
    alarm.raised = watch.raised;
    changes.push_back(alarm);
  }
  return changes;
}

std::vector<Alarm> AlarmBoard::Active() const {
  std::vector<Alarm> active;
  for (const Watch& watch : watches_) {
    if (watch.raised) active.push_back(watch.alarm);
  }
  std::stable_sort(
      active.begin(), active.end(),
      [](const Alarm& a, const Alarm& b) { return a.since < b.since; });
  return active;
}

}  // namespace strata
