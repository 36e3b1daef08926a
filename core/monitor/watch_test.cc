#include "core/monitor/watch.h"

#include <utility>
#include <vector>

#include "absl/time/time.h"
#include "core/monitor/alarm_board.h"
#include "core/monitor/expert_use.h"
#include "gtest/gtest.h"

namespace strata {
namespace {

// A gate of two experts.
std::vector<GateUse> Gate(double first, double second) {
  GateUse gate;
  gate.tokens = static_cast<int64_t>(first + second);
  gate.load = {first, second};
  return {gate};
}

Watch MakeWatch() {
  AlarmRule rule =
      MakeRule("starves", kStarvedShareMetric, AlarmRule::Kind::kAbove, 0.4);
  rule.hold = 1;
  Watch watch({std::move(rule)});
  RankBalanceOptions ranks;
  ranks.num_ranks = 2;
  ranks.spare_slots = 0;
  watch.SetGates({2}, ranks);
  return watch;
}

TEST(WatchTest, AWindowGoesOnUntilItHasEightRowsAnExpert) {
  Watch watch = MakeWatch();

  watch.ObserveGates(Gate(15, 0), absl::UnixEpoch());
  EXPECT_TRUE(watch.TakeEvents().empty()) << "15 rows say nothing of two";
  EXPECT_EQ(watch.figures().spread, 0);

  // With these there are 16, four of them the second's.
  watch.ObserveGates(Gate(0, 4), absl::UnixEpoch());
  EXPECT_TRUE(watch.TakeEvents().empty());
  EXPECT_NEAR(watch.figures().max_over_mean, 15 / 9.5, 1e-12);

  // A window of its own: what was before counts no more.
  watch.ObserveGates(Gate(16, 0), absl::UnixEpoch());
  const auto events = watch.TakeEvents();
  ASSERT_EQ(events.size(), 1);
  EXPECT_EQ(events[0]["alarm"], "starves");
  EXPECT_EQ(events[0]["value"], 0.5);
  EXPECT_EQ(watch.figures().max_over_mean, 2);
}

TEST(WatchTest, OtherGatesBeginAnew) {
  Watch watch = MakeWatch();
  watch.ObserveGates(Gate(15, 0), absl::UnixEpoch());

  watch.SetGates({2}, RankBalanceOptions());
  watch.ObserveGates(Gate(8, 7), absl::UnixEpoch());

  EXPECT_EQ(watch.figures().use.balance.total, 0) << "no window is full yet";
}

}  // namespace
}  // namespace strata
