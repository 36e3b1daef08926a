#include "training/schedule.h"

#include "core/model/config.pb.h"
#include "gtest/gtest.h"
#include "training/config.pb.h"

namespace strata {
namespace {

TrainConfig Config() {
  TrainConfig train;
  train.set_steps(110);
  train.set_warmup_steps(10);
  train.set_learning_rate(2.0);
  train.set_min_learning_rate_ratio(0.1);
  return train;
}

TEST(LearningRateTest, RisesLinearlyAndPeaksWhereTheWarmUpEnds) {
  EXPECT_DOUBLE_EQ(LearningRate(Config(), 1), 0.2);
  EXPECT_DOUBLE_EQ(LearningRate(Config(), 5), 1.0);
  EXPECT_DOUBLE_EQ(LearningRate(Config(), 10), 2.0);
}

TEST(LearningRateTest, FallsByACosineToTheFloorAndStaysThere) {
  // Halfway the cosine is 0: 2 * (0.1 + 0.9 / 2).
  EXPECT_NEAR(LearningRate(Config(), 60), 1.1, 1e-12);
  EXPECT_NEAR(LearningRate(Config(), 110), 0.2, 1e-12);
  EXPECT_NEAR(LearningRate(Config(), 500), 0.2, 1e-12);
}

TEST(LearningRateTest, AllWarmUpHasNoCosineToDivideBy) {
  TrainConfig train = Config();
  train.set_steps(10);

  EXPECT_DOUBLE_EQ(LearningRate(train, 10), 2.0);
}

TEST(AnnealedTauTest, StaysAndThenFallsLinearlyToTheLastStep) {
  HierarchicalRouterConfig router;
  router.set_tau(0.5);
  router.set_tau_start(0.9);
  router.set_tau_anneal(0.2);  // 22 of 110 steps.

  EXPECT_DOUBLE_EQ(AnnealedTau(router, Config(), 1), 0.9);
  EXPECT_DOUBLE_EQ(AnnealedTau(router, Config(), 88), 0.9);
  EXPECT_DOUBLE_EQ(AnnealedTau(router, Config(), 99), 0.7);
  EXPECT_DOUBLE_EQ(AnnealedTau(router, Config(), 110), 0.5);
  EXPECT_DOUBLE_EQ(AnnealedTau(router, Config(), 500), 0.5);
}

TEST(AnnealedTauTest, StaysToTheEndWithoutAFall) {
  HierarchicalRouterConfig router;
  router.set_tau(0.5);
  router.set_tau_start(0.9);

  EXPECT_DOUBLE_EQ(AnnealedTau(router, Config(), 1), 0.9);
  EXPECT_DOUBLE_EQ(AnnealedTau(router, Config(), 110), 0.9);
}

}  // namespace
}  // namespace strata
