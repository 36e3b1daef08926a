#include "core/monitor/rank_speed.h"

#include "gtest/gtest.h"

namespace strata {
namespace {

TEST(RankSpeedTest, TheSlowOneTakesLongerThanTheOthersOfItsStage) {
  RankSpeed speed({0, 0, 0, 1, 1, 1});
  // Stages may differ in what they have to do.
  RankSpeed::Slowest slowest = speed.Observe({1, 1.5, 1, 4, 4, 4.2}, {});
  EXPECT_EQ(slowest.rank, 1);
  EXPECT_DOUBLE_EQ(slowest.times, 1.5);
  slowest = speed.Observe({1, 1, 1, 4, 4, 6}, {});
  EXPECT_EQ(slowest.rank, 5);
  EXPECT_DOUBLE_EQ(slowest.times, 1.5);
}

TEST(RankSpeedTest, OfTwoRanksEachIsHeldToTheOther) {
  RankSpeed speed({0, 0});
  const RankSpeed::Slowest slowest = speed.Observe({2, 3}, {});
  EXPECT_EQ(slowest.rank, 1);
  EXPECT_DOUBLE_EQ(slowest.times, 1.5);
}

TEST(RankSpeedTest, MoreRowsAreNoSlowRank) {
  RankSpeed speed({0, 0, 0, 0});
  // Twice the rows, half as long again.
  EXPECT_LE(speed.Observe({1, 1, 1, 1.5}, {10, 10, 10, 20}).times, 1);
  // And fewer are no reason to be slow.
  const RankSpeed::Slowest slowest =
      speed.Observe({1, 1, 1, 1.5}, {10, 10, 10, 5});
  EXPECT_EQ(slowest.rank, 3);
  EXPECT_DOUBLE_EQ(slowest.times, 1.5);
  // No rows at all say nothing.
  EXPECT_DOUBLE_EQ(speed.Observe({1, 1, 1, 1.5}, {0, 0, 0, 0}).times, 1.5);
}

TEST(RankSpeedTest, AloneInItsStageARankIsHeldToWhatItWas) {
  RankSpeed speed({0, 1, 2});
  EXPECT_DOUBLE_EQ(speed.Observe({1, 2, 3}, {}).times, 1);
  RankSpeed::Slowest slowest = speed.Observe({1, 3, 3}, {});
  EXPECT_EQ(slowest.rank, 1);
  EXPECT_DOUBLE_EQ(slowest.times, 1.5);
  // All at once are no slow rank.
  EXPECT_DOUBLE_EQ(speed.Observe({2, 4, 6}, {}).times, 1);
}

}  // namespace
}  // namespace strata
