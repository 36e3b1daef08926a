#include "sim/compute/minimize.h"

#include <cmath>
#include <limits>
#include <vector>

#include "absl/types/span.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace strata {
namespace {

TEST(MinimizeTest, FindsTheMinimumOfAValley) {
  // A curved valley in logarithms, as Rosenbrock's, with its minimum at (2, 5).
  const auto cost = [](absl::Span<const double> at) {
    const double x = std::log(at[0] / 2), y = std::log(at[1] / 5);
    return 100 * (y - x * x) * (y - x * x) + x * x;
  };
  const std::vector<SearchRange> range = {{0.5, 0.1, 10}, {1, 0.1, 100}};

  const Minimum minimum = Minimize(cost, range, 4000);

  EXPECT_NEAR(minimum.at[0], 2, 1e-2);
  EXPECT_NEAR(minimum.at[1], 5, 1e-2);
}

TEST(MinimizeTest, StaysWithinBounds) {
  const auto cost = [](absl::Span<const double> at) { return at[0] - at[1]; };
  const std::vector<SearchRange> range = {{3, 2, 10}, {3, 2, 10}};

  const Minimum minimum = Minimize(cost, range, 500);

  EXPECT_DOUBLE_EQ(minimum.at[0], 2);
  EXPECT_DOUBLE_EQ(minimum.at[1], 10);
}

TEST(MinimizeTest, PassesByWhatIsNotFinite) {
  const auto cost = [](absl::Span<const double> at) {
    return at[0] < 2 ? std::numeric_limits<double>::quiet_NaN() : at[0];
  };
  const std::vector<SearchRange> range = {{4, 0.1, 10}};

  EXPECT_NEAR(Minimize(cost, range, 500).at[0], 2, 1e-2);
}

TEST(MinimizeTest, IsTheSameEachTime) {
  const auto cost = [](absl::Span<const double> at) {
    return std::abs(std::log(at[0])) + std::sin(20 * at[1]);
  };
  const std::vector<SearchRange> range = {{4, 0.1, 10}, {4, 0.1, 10}};

  const Minimum first = Minimize(cost, range, 300);
  const Minimum second = Minimize(cost, range, 300);

  EXPECT_EQ(first.at, second.at);
  EXPECT_EQ(first.evaluations, second.evaluations);
  EXPECT_LE(first.evaluations, 300 + 50);  // Ends after a round of steps.
}

}  // namespace
}  // namespace strata
