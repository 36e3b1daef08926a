#include "sim/compute/expert_rows.h"

#include <algorithm>
#include <cstdint>
#include <numeric>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "sim/compute/kernel_shape.h"

namespace strata {
namespace {

using ::testing::Each;
using ::testing::ElementsAre;

int64_t Sum(const std::vector<int64_t>& rows) {
  return std::accumulate(rows.begin(), rows.end(), int64_t{0});
}

TEST(RowsOfTest, CountsBlocksOnBothSidesOfAHeight) {
  const ExpertRows rows = RowsOf({0, 1, 16, 17, -5});

  EXPECT_EQ(rows.rows, 34);
  EXPECT_EQ(rows.touched, 3);
  // Heights 16, 32, ...: 1 + 1 + 2, then one block for each.
  EXPECT_THAT(rows.blocks, ElementsAre(4, 3, 3, 3, 3));
}

TEST(EvenRowsTest, EqualsRowsOfEqualExperts) {
  const ExpertRows even = EvenRows(4 * 40, 4);
  const ExpertRows loads = RowsOf({40, 40, 40, 40});

  EXPECT_EQ(even.rows, loads.rows);
  EXPECT_EQ(even.touched, loads.touched);
  EXPECT_THAT(even.blocks, ElementsAre(12, 8, 4, 4, 4));
  EXPECT_THAT(loads.blocks, ElementsAre(12, 8, 4, 4, 4));
}

TEST(EvenRowsTest, FewRowsTouchAsManyExperts) {
  EXPECT_EQ(EvenRows(3, 8).touched, 3);
  EXPECT_EQ(EvenRows(0, 8).touched, 0);
}

TEST(BalancedLoadsTest, GivesEveryExpertTheSame) {
  const LocalLoads loads = BalancedLoads({32, 16, 2, 1});
  EXPECT_THAT(loads.rows, Each(32 * 2 / 16));
  EXPECT_EQ(loads.tokens, 32);
}

TEST(BalancedLoadsTest, RankHasItsPartOfTheTokens) {
  // Stride 8: token t chooses t and t + 8 of 16 experts. Rank 0 of 4 has the
  // first 4, so tokens with t mod 8 < 4: half of them, each with one choice.
  const LocalLoads loads = BalancedLoads({32, 16, 2, 4});
  EXPECT_THAT(loads.rows, ElementsAre(4, 4, 4, 4));
  EXPECT_EQ(loads.tokens, 16);
}

TEST(BalancedLoadsTest, FewTokensSpread) {
  // Stride 4, tokens 0 and 1: experts 0, 4 and 2, 6.
  EXPECT_THAT(BalancedLoads({2, 8, 2, 1}).rows,
              ElementsAre(1, 0, 1, 0, 1, 0, 1, 0));
}

TEST(PowerLawLoadsTest, ConservesChoicesAndBoundsLoads) {
  for (const int64_t tokens : {1, 2, 3, 16, 1000}) {
    for (const double alpha : {1.0, 1.01, 1.2}) {
      for (uint64_t seed = 0; seed < 4; ++seed) {
        const LocalLoads loads = PowerLawLoads({tokens, 64, 8, 1}, alpha, seed);
        EXPECT_EQ(Sum(loads.rows), tokens * 8);
        EXPECT_LE(*std::max_element(loads.rows.begin(), loads.rows.end()),
                  tokens);
        EXPECT_GE(*std::min_element(loads.rows.begin(), loads.rows.end()), 0);
        // All experts are local, so every token has a local choice.
        EXPECT_EQ(loads.tokens, tokens);
      }
    }
  }
}

TEST(PowerLawLoadsTest, LeftoverChoicesGoWhereTheBenchmarkPutThem) {
  // One token's 8 choices of 384 experts are a 48th each on average, and all
  // are rounded away. By rows they fill one of the 16 ranks, by ranks the first
  // 8 get one each.
  const LoadShape shape = {1, 384, 8, 16};
  for (uint64_t seed = 0; seed < 8; ++seed) {
    EXPECT_EQ(Sum(PowerLawLoads(shape, 1.2, seed, Leftover::kFewest).rows), 8);
    EXPECT_EQ(Sum(PowerLawLoads(shape, 1.2, seed, Leftover::kMost).rows), 8);
    EXPECT_EQ(Sum(PowerLawLoads(shape, 1.2, seed).rows), 1);
  }
}

TEST(PowerLawLoadsTest, EveryLeftoverConservesChoicesAndBoundsLoads) {
  for (const Leftover leftover :
       {Leftover::kFewestOfEachRank, Leftover::kFewest, Leftover::kMost}) {
    for (const int64_t tokens : {1, 2, 3, 16, 1000}) {
      for (const int64_t experts : {8, 64}) {
        for (uint64_t seed = 0; seed < 4; ++seed) {
          const std::vector<int64_t> rows =
              PowerLawLoads({tokens, experts, 4, 1}, 1.2, seed, leftover).rows;
          EXPECT_EQ(Sum(rows), tokens * 4);
          EXPECT_LE(*std::max_element(rows.begin(), rows.end()), tokens);
          EXPECT_GE(*std::min_element(rows.begin(), rows.end()), 0);
        }
      }
    }
  }
}

TEST(PowerLawLoadsTest, LocalRankIsTheBusiest) {
  for (uint64_t seed = 0; seed < 16; ++seed) {
    const LocalLoads loads = PowerLawLoads({1000, 64, 8, 16}, 1.2, seed);
    EXPECT_EQ(loads.rows.size(), 4);
    EXPECT_GE(Sum(loads.rows), 1000 * 8 / 16);  // At least the mean.
    EXPECT_LE(loads.tokens, Sum(loads.rows));
    EXPECT_GE(loads.tokens,
              *std::max_element(loads.rows.begin(), loads.rows.end()));
  }
}

TEST(PowerLawLoadsTest, DependOnTheSeedAlone) {
  EXPECT_EQ(PowerLawLoads({1000, 64, 8, 4}, 1.2, 3).rows,
            PowerLawLoads({1000, 64, 8, 4}, 1.2, 3).rows);
  EXPECT_NE(PowerLawLoads({1000, 64, 8, 4}, 1.2, 3).rows,
            PowerLawLoads({1000, 64, 8, 4}, 1.2, 4).rows);
}

}  // namespace
}  // namespace strata
