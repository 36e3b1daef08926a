#include "core/parallel/assignment.h"

#include <algorithm>
#include <numeric>
#include <vector>

#include "core/base/random.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace strata {
namespace {

using ::testing::ElementsAre;

int Sum(const std::vector<std::vector<int>>& value,
        const std::vector<int>& column) {
  int sum = 0;
  for (size_t row = 0; row < value.size(); ++row) {
    sum += value[row][column[row]];
  }
  return sum;
}

// Greedy takes 9 and is left with 1; 8 + 7 is more.
TEST(BestAssignmentTest, GivesUpTheLargestValueForALargerSum) {
  EXPECT_THAT(BestAssignment({{9, 8}, {7, 1}}), ElementsAre(1, 0));
}

TEST(BestAssignmentTest, FindsTheLargestSumOfAllPermutations) {
  Random random(/*seed=*/1, /*stream=*/0);
  for (int n = 1; n <= 6; ++n) {
    for (int repeat = 0; repeat < 20; ++repeat) {
      std::vector<std::vector<int>> value(n, std::vector<int>(n));
      for (std::vector<int>& row : value) {
        for (int& x : row) x = random.UniformInt(10);
      }

      const std::vector<int> assigned = BestAssignment(value);

      std::vector<int> permutation(n);
      std::iota(permutation.begin(), permutation.end(), 0);
      EXPECT_TRUE(std::is_permutation(assigned.begin(), assigned.end(),
                                      permutation.begin()));
      int best = 0;
      do {
        best = std::max(best, Sum(value, permutation));
      } while (std::next_permutation(permutation.begin(), permutation.end()));
      EXPECT_EQ(Sum(value, assigned), best);
    }
  }
}

}  // namespace
}  // namespace strata
