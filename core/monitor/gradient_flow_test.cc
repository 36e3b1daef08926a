#include "core/monitor/gradient_flow.h"

#include <vector>

#include "gtest/gtest.h"

namespace strata {
namespace {

TEST(GradientFlowTest, IsTheDecadesBetweenALayerAndTheStrongest) {
  EXPECT_DOUBLE_EQ(VanishingIndex(2, 2), 0);
  EXPECT_DOUBLE_EQ(VanishingIndex(0.002, 2), 3);
  EXPECT_DOUBLE_EQ(VanishingIndex(std::vector<double>{0.5, 5, 0.05}), 2);
}

TEST(GradientFlowTest, ALayerWithoutAGradientHasTheMostThereIs) {
  EXPECT_EQ(VanishingIndex(0, 1), kNoGradientIndex);
  EXPECT_EQ(VanishingIndex(1e-300, 1e300), kNoGradientIndex);
  EXPECT_EQ(VanishingIndex(std::vector<double>{1, 0}), kNoGradientIndex);
}

TEST(GradientFlowTest, WithoutAnyGradientNothingVanished) {
  EXPECT_EQ(VanishingIndex(0, 0), 0);
  EXPECT_EQ(VanishingIndex(std::vector<double>{0, 0}), 0);
  EXPECT_EQ(VanishingIndex(std::vector<double>{}), 0);
}

}  // namespace
}  // namespace strata
