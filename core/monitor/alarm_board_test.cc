#include "core/monitor/alarm_board.h"

#include <cmath>
#include <random>
#include <vector>

#include "absl/time/time.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace strata {
namespace {

using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::SizeIs;

AlarmRule Rule(AlarmRule::Kind kind, double threshold) {
  AlarmRule rule;
  rule.name = "r";
  rule.metric = "m";
  rule.kind = kind;
  rule.threshold = threshold;
  return rule;
}

absl::Time At(int second) { return absl::UnixEpoch() + absl::Seconds(second); }

// Samples in a row; what changed at each, as the sample's number, negative
// where the alarm ended.
std::vector<int> Changes(AlarmBoard& board, const std::vector<double>& values) {
  std::vector<int> changes;
  for (size_t i = 0; i < values.size(); ++i) {
    for (const Alarm& alarm :
         board.Observe("m", values[i], At(static_cast<int>(i)))) {
      const int number = static_cast<int>(i) + 1;
      changes.push_back(alarm.raised ? number : -number);
    }
  }
  return changes;
}

TEST(AlarmBoardTest, RaisesAfterThreeInARowAndClearsAfterThree) {
  AlarmBoard board({Rule(AlarmRule::Kind::kAbove, 0.15)});
  EXPECT_THAT(Changes(board, {0.2, 0.2, 0.1, 0.2, 0.2, 0.2, 0.1, 0.1, 0.3, 0.1,
                              0.15, 0.1}),
              testing::ElementsAre(6, -12));
  EXPECT_THAT(board.Active(), IsEmpty());
}

TEST(AlarmBoardTest, TellsWhatStandsAndWhatWouldBeRight) {
  AlarmBoard board({Rule(AlarmRule::Kind::kBelow, 5)});
  Changes(board, {4, 3, 2});
  ASSERT_THAT(board.Active(), SizeIs(1));
  EXPECT_EQ(board.Active()[0].value, 2);
  EXPECT_EQ(board.Active()[0].since, At(2));
  EXPECT_EQ(Describe(board.Active()[0]), "m is 2; at least 5 is right");
}

TEST(AlarmBoardTest, LeavesMetricsOfOtherRulesAlone) {
  AlarmBoard board({Rule(AlarmRule::Kind::kAbove, 1)});
  for (int i = 0; i < 10; ++i) {
    EXPECT_THAT(board.Observe("other", 9, At(i)), IsEmpty());
  }
}

// Samples of a normal distribution have a mean deviation of 0.8 sigma: six of
// them are 4.8 sigma, which a thousand samples pass three times in a row never.
TEST(AlarmBoardTest, LearnsABandAndNoticesWhenItIsLeft) {
  AlarmBoard board({Rule(AlarmRule::Kind::kBand, 6)});
  std::mt19937 rng(1);
  std::normal_distribution<double> normal(10, 1);
  std::vector<double> values(1000);
  for (double& x : values) x = normal(rng);
  EXPECT_THAT(Changes(board, values), IsEmpty());

  for (double& x : values) x += 12;
  const std::vector<int> changes = Changes(board, values);
  ASSERT_THAT(changes, SizeIs(2)) << "raised, then learned as a new level";
  EXPECT_EQ(changes[0], 3);
  EXPECT_LT(changes[1], -50) << "but not at once";
}

TEST(AlarmBoardTest, ABandDoesNotJudgeBeforeItHasSeenEnough) {
  AlarmBoard board({Rule(AlarmRule::Kind::kBand, 3)});
  EXPECT_THAT(Changes(board, {1, 1, 1, 1, 50, 50, 50, 50}), IsEmpty());
}

TEST(AlarmBoardTest, WhatIsNotFiniteIsWrongAndTeachesNothing) {
  AlarmBoard board({Rule(AlarmRule::Kind::kBand, 3)});
  std::vector<double> values(40, 2.0);
  values.insert(values.end(), 3, std::nan(""));
  values.insert(values.end(), 3, 2.0);
  EXPECT_THAT(Changes(board, values), testing::ElementsAre(43, -46));
}

TEST(AlarmBoardTest, TheRuleOfTheSpecificationIsThere) {
  AlarmBoard board({UtilisationSpreadRule()});
  for (int i = 0; i < 2; ++i) {
    board.Observe("rank_utilisation_spread", 0.16, At(i));
  }
  const auto changes = board.Observe("rank_utilisation_spread", 0.16, At(2));
  ASSERT_THAT(changes, SizeIs(1));
  EXPECT_THAT(Describe(changes[0]), HasSubstr("up to 0.15"));
}

}  // namespace
}  // namespace strata
