#include "core/monitor/expert_use.h"

#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace strata {
namespace {

// Two layers of two tiers. Tier 0: 20 tokens of 2 x 4 experts chose 10 + 10 of
// 80. Tier 1: 10 of these tokens came there, and chose 5 + 15 of 20.
TEST(ExpertUseTest, AddsGatesUpByTier) {
  ExpertUseMonitor monitor;
  const RouterUse use = monitor.Observe({{0, 10, {4, 3, 2, 1}},
                                         {1, 4, {5, 0}},
                                         {0, 10, {10, 0, 0, 0}},
                                         {1, 6, {6, 9}}});
  ASSERT_EQ(use.tiers.size(), 2);
  EXPECT_DOUBLE_EQ(use.tiers[0].activation_rate, 20.0 / 80);
  EXPECT_DOUBLE_EQ(use.tiers[0].reached, 1);
  EXPECT_DOUBLE_EQ(use.tiers[1].activation_rate, 1.0);
  EXPECT_DOUBLE_EQ(use.tiers[1].reached, 0.5);
  // Max over mean: 4 / 2.5, 5 / 2.5, 10 / 2.5, 9 / 7.5.
  EXPECT_DOUBLE_EQ(use.balance.max_over_mean, (1.6 + 2 + 4 + 1.2) / 4);
  EXPECT_EQ(use.drift, 0) << "there is nothing yet to have come from";
}

TEST(ExpertUseTest, DriftIsTheShareOfChoicesThatMoved) {
  ExpertUseMonitor monitor(/*memory=*/0.5);
  monitor.Observe({{0, 10, {8, 2}}});
  EXPECT_DOUBLE_EQ(monitor.Observe({{0, 10, {40, 10}}}).drift, 0);
  // Shares 0.8, 0.2 become 0.5, 0.5: 0.3 moved.
  EXPECT_DOUBLE_EQ(monitor.Observe({{0, 10, {5, 5}}}).drift, 0.3);
  // What has been is now half way, 0.65, 0.35.
  EXPECT_NEAR(monitor.Observe({{0, 10, {5, 5}}}).drift, 0.15, 1e-12);
}

TEST(ExpertUseTest, AnIdleWindowSaysNothing) {
  ExpertUseMonitor monitor;
  monitor.Observe({{0, 10, {8, 2}}});
  const RouterUse idle = monitor.Observe({{0, 0, {0, 0}}});
  EXPECT_EQ(idle.tiers[0].activation_rate, 0);
  EXPECT_EQ(idle.drift, 0);
  EXPECT_EQ(idle.balance.total, 0);
  EXPECT_DOUBLE_EQ(monitor.Observe({{0, 10, {8, 2}}}).drift, 0);
}

}  // namespace
}  // namespace strata
