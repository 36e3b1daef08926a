#include "cuda/testing/expert_choices.h"

#include <algorithm>
#include <cstdint>
#include <set>
#include <vector>

#include "gtest/gtest.h"

namespace strata::gpu {
namespace {

// Rows by expert, after a look at each token's experts.
std::vector<int64_t> RowsOf(const ChoiceShape& shape,
                            const std::vector<int32_t>& choices) {
  std::vector<int64_t> rows(shape.experts);
  EXPECT_EQ(choices.size(), static_cast<size_t>(shape.tokens * shape.k));
  for (int64_t t = 0; t < shape.tokens; ++t) {
    const auto begin = choices.begin() + t * shape.k;
    const std::set<int32_t> apart(begin, begin + shape.k);
    EXPECT_EQ(apart.size(), static_cast<size_t>(shape.k)) << "token " << t;
    for (const int32_t e : apart) ++rows.at(e);
  }
  return rows;
}

TEST(ExpertChoicesTest, BalancedOnesAreEven) {
  const ChoiceShape shape = {32, 128, 8};
  const std::vector<int32_t> choices = BalancedChoices(shape, 1);
  const std::vector<int64_t> rows = RowsOf(shape, choices);
  EXPECT_EQ(*std::min_element(rows.begin(), rows.end()), 2);
  EXPECT_EQ(*std::max_element(rows.begin(), rows.end()), 2);
  EXPECT_EQ(NumChosen(choices), 128);
}

TEST(ExpertChoicesTest, PowerLawsAreNotAndEveryTokenHasItsExperts) {
  for (const int64_t tokens : {1, 2, 16, 64, 1000}) {
    for (int seed = 0; seed < 4; ++seed) {
      const ChoiceShape shape = {tokens, 128, 8};
      const std::vector<int32_t> choices = PowerLawChoices(shape, 1.2, seed);
      const std::vector<int64_t> rows = RowsOf(shape, choices);
      const int64_t most = *std::max_element(rows.begin(), rows.end());
      EXPECT_LE(most, tokens);
      if (tokens >= 64) {
        EXPECT_GT(most, 4 * tokens * 8 / 128) << tokens;
      }
      EXPECT_EQ(NumChosen(choices),
                128 - std::count(rows.begin(), rows.end(), 0));
    }
  }
}

TEST(ExpertChoicesTest, SeedsDiffer) {
  const ChoiceShape shape = {64, 128, 8};
  EXPECT_NE(PowerLawChoices(shape, 1.2, 1), PowerLawChoices(shape, 1.2, 2));
  EXPECT_EQ(PowerLawChoices(shape, 1.2, 1), PowerLawChoices(shape, 1.2, 1));
}

}  // namespace
}  // namespace strata::gpu
