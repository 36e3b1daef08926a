#include "training/demo/plan.h"

#include <cstdint>

#include "gtest/gtest.h"

namespace strata {
namespace {

TEST(DemoSecondsTest, CountsTheLastValidationOnce) {
  const DemoCosts costs = {/*step=*/1, /*validation=*/10, /*closing=*/5};

  // After steps 100 and 200, and at the end.
  EXPECT_EQ(DemoSeconds(costs, 250, 100), 5 + 250 + 30);
  EXPECT_EQ(DemoSeconds(costs, 200, 100), 5 + 200 + 20);
  EXPECT_EQ(DemoSeconds(costs, 99, 100), 5 + 99 + 10);
  EXPECT_EQ(DemoSeconds(costs, 250, 0), 5 + 250 + 10);
}

TEST(StepsWithinTest, IsTheMostThatFits) {
  const DemoCosts costs = {/*step=*/0.5, /*validation=*/3, /*closing=*/2};
  for (const int64_t interval : {0, 7, 100}) {
    for (const double seconds : {6.0, 20.0, 55.5, 200.0}) {
      const int64_t steps = StepsWithin(seconds, costs, interval, 300);

      EXPECT_LE(DemoSeconds(costs, steps, interval), seconds);
      if (steps < 300) {
        EXPECT_GT(DemoSeconds(costs, steps + 1, interval), seconds);
      }
    }
  }
}

TEST(StepsWithinTest, StaysWithinOneAndTheMost) {
  const DemoCosts costs = {/*step=*/1, /*validation=*/1, /*closing=*/1};

  EXPECT_EQ(StepsWithin(-5, costs, 100, 600), 1);
  EXPECT_EQ(StepsWithin(1e9, costs, 100, 600), 600);
  EXPECT_EQ(StepsWithin(1e9, costs, 100, 1), 1);
}

}  // namespace
}  // namespace strata
