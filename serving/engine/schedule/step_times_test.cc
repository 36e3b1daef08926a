#include "serving/engine/schedule/step_times.h"

#include "gtest/gtest.h"

namespace strata {
namespace {

TEST(StepTimesTest, GuessesBeforeTheFirstStep) {
  EXPECT_DOUBLE_EQ(StepTimes().Of(20), 0.02);
}

TEST(StepTimesTest, StepsOfOneSizeGiveALineThroughZero) {
  StepTimes times;
  for (int i = 0; i < 10; ++i) times.Add(50, 0.1);
  EXPECT_NEAR(times.Of(50), 0.1, 1e-12);
  EXPECT_NEAR(times.Of(100), 0.2, 1e-12);
}

TEST(StepTimesTest, FindsTheLineAndFollowsIt) {
  StepTimes times;
  const auto run = [&](double fixed, double of_token) {
    for (int i = 0; i < 2000; ++i) {
      const int tokens = 1 + i * 37 % 256;
      times.Add(tokens, fixed + of_token * tokens);
    }
  };
  run(0.01, 1e-3);
  EXPECT_NEAR(times.Of(0), 0.01, 1e-9);
  EXPECT_NEAR(times.Of(256), 0.266, 1e-9);
  // Two steps of 200 and one of 100.
  EXPECT_NEAR(times.OfPrompt(500, 200), 0.53, 1e-9);
  EXPECT_NEAR(times.OfPrompt(400, 200), 0.42, 1e-9);
  run(0.02, 5e-4);  // Of the first, exp(-20) is left.
  EXPECT_NEAR(times.Of(256), 0.148, 1e-6);
}

TEST(StepTimesTest, NothingIsNegative) {
  StepTimes times;
  for (int i = 0; i < 50; ++i) {
    times.Add(10, 0.5);
    times.Add(200, 0.1);
    times.Add(0, 3);
    times.Add(10, -1);
  }
  EXPECT_GE(times.Of(0), 0);
  EXPECT_GE(times.Of(1000), times.Of(0));
}

}  // namespace
}  // namespace strata
