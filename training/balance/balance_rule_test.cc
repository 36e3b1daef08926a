#include "training/balance/balance_rule.h"

#include "absl/status/status.h"
#include "core/testing/status_matchers.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace strata {
namespace {

using ::testing::HasSubstr;

TEST(BalanceRuleTest, IsNeverAnAlarmOrANumberOfSteps) {
  EXPECT_FALSE(ParseBalanceRule("never")->moves());
  EXPECT_EQ(ParseBalanceRule("alarm")->when, BalanceRule::When::kAlarm);
  const auto every = ParseBalanceRule("25");
  ASSERT_THAT(every, IsOk());
  EXPECT_EQ(every->when, BalanceRule::When::kEvery);
  EXPECT_EQ(every->steps, 25);
  for (const char* text : {"", "0", "-3", "5 steps", "always"}) {
    EXPECT_THAT(
        ParseBalanceRule(text).status(),
        StatusIs(absl::StatusCode::kInvalidArgument,
                 HasSubstr("want alarm, never or a number of steps from 1 on")))
        << text;
  }
}

TEST(BalanceRuleTest, WantsRanksThatShareExpertsOut) {
  BalanceRule rule = *ParseBalanceRule("alarm");
  EXPECT_THAT(Validate(rule, {1, 2, 1}), IsOk());
  EXPECT_THAT(
      Validate(rule, {4, 1, 2}),
      StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("--ep is 1")));
  rule.max_bytes = 0;
  EXPECT_THAT(Validate(rule, {1, 2, 1}),
              StatusIs(absl::StatusCode::kInvalidArgument,
                       HasSubstr("0 bytes and 1 seconds")));
  BalanceRule never;
  EXPECT_THAT(Validate(never, {1, 1, 1}), IsOk());
  never.spare = 1;
  EXPECT_THAT(Validate(never, {1, 2, 1}),
              StatusIs(absl::StatusCode::kInvalidArgument,
                       HasSubstr("--spare-experts are for copies")));
}

}  // namespace
}  // namespace strata
