#include "core/parallel/load_stats.h"

#include <algorithm>
#include <cstdint>
#include <random>
#include <vector>

#include "gtest/gtest.h"

namespace strata {
namespace {

// Pairs of {1, 2, 3, 6}: |1-2| |1-3| |1-6| |2-3| |2-6| |3-6| = 1+2+5+1+4+3
// = 16. Gini = 16 / (4 * 12) = 1/3. Mean 3, largest 6.
TEST(LoadStatsTest, AgreesWithAHandWorkedLayer) {
  const LoadStats stats = ComputeLoadStats(std::vector<int64_t>{1, 6, 3, 2});

  EXPECT_DOUBLE_EQ(stats.total, 12);
  EXPECT_DOUBLE_EQ(stats.gini, 1.0 / 3);
  EXPECT_DOUBLE_EQ(stats.utilisation, 0.5);
  EXPECT_DOUBLE_EQ(stats.max_over_mean, 2);
  EXPECT_DOUBLE_EQ(stats.starved_share, 0);
}

TEST(LoadStatsTest, OneExpertTakingAllIsTheMostUneven) {
  const LoadStats stats = ComputeLoadStats(std::vector<double>{0, 8, 0, 0});

  EXPECT_DOUBLE_EQ(stats.gini, 1 - 1.0 / 4);
  EXPECT_DOUBLE_EQ(stats.utilisation, 0.25);
  EXPECT_DOUBLE_EQ(stats.max_over_mean, 4);
  EXPECT_DOUBLE_EQ(stats.starved_share, 0.75);
}

TEST(LoadStatsTest, EqualLoadsAreEven) {
  const LoadStats stats = ComputeLoadStats(std::vector<float>{7, 7, 7});

  EXPECT_DOUBLE_EQ(stats.gini, 0);
  EXPECT_DOUBLE_EQ(stats.utilisation, 1);
  EXPECT_DOUBLE_EQ(stats.max_over_mean, 1);
  EXPECT_DOUBLE_EQ(stats.starved_share, 0);
}

// The mean is 100: 10 is a tenth of it and fed, 9 is less and starved.
TEST(LoadStatsTest, AnExpertIsStarvedBelowATenthOfTheMean) {
  EXPECT_DOUBLE_EQ(
      ComputeLoadStats(std::vector<int64_t>{10, 190}).starved_share, 0);
  EXPECT_DOUBLE_EQ(ComputeLoadStats(std::vector<int64_t>{9, 191}).starved_share,
                   0.5);
}

TEST(LoadStatsTest, NoLoadCountsAsEven) {
  for (const auto& load :
       {std::vector<int64_t>{}, std::vector<int64_t>{0, 0}}) {
    const LoadStats stats = ComputeLoadStats(load);

    EXPECT_EQ(stats.total, 0);
    EXPECT_EQ(stats.gini, 0);
    EXPECT_EQ(stats.utilisation, 1);
    EXPECT_EQ(stats.max_over_mean, 1);
    EXPECT_EQ(stats.starved_share, 0);
  }
}

// Another form of the same number, over sorted loads x_1 <= ... <= x_n:
// 2 sum_i i x_i / (n sum x) - (n + 1) / n.
TEST(LoadStatsTest, GiniAgreesWithItsSortedFormAndIgnoresScale) {
  std::mt19937 rng(/*seed=*/5);
  std::uniform_int_distribution<int64_t> tokens(0, 1000);
  for (const int n : {1, 2, 3, 48, 257}) {
    std::vector<int64_t> load(n);
    for (int64_t& x : load) x = tokens(rng);
    load[0] = 1;  // Never no load at all.
    std::vector<int64_t> sorted = load;
    std::sort(sorted.begin(), sorted.end());
    double weighted = 0, total = 0;
    for (int i = 0; i < n; ++i) {
      weighted += (i + 1.0) * sorted[i];
      total += sorted[i];
    }

    const double gini = ComputeLoadStats(load).gini;
    for (int64_t& x : load) x *= 1000;

    EXPECT_NEAR(gini, 2 * weighted / (n * total) - (n + 1.0) / n, 1e-12);
    EXPECT_NEAR(ComputeLoadStats(load).gini, gini, 1e-12);
  }
}

TEST(LoadStatsTest, LayersCountAlikeHoweverMuchTheyCarry) {
  const std::vector<LoadStats> layers = {
      ComputeLoadStats(std::vector<int64_t>{0, 8, 0, 0}),
      ComputeLoadStats(std::vector<int64_t>{500, 500})};

  const LoadStats mean = AverageLoadStats(layers);

  EXPECT_DOUBLE_EQ(mean.total, 1008);
  EXPECT_DOUBLE_EQ(mean.gini, 0.375);           // (0.75 + 0) / 2
  EXPECT_DOUBLE_EQ(mean.utilisation, 0.625);    // (0.25 + 1) / 2
  EXPECT_DOUBLE_EQ(mean.max_over_mean, 2.5);    // (4 + 1) / 2
  EXPECT_DOUBLE_EQ(mean.starved_share, 0.375);  // (0.75 + 0) / 2
}

TEST(LoadStatsTest, LayersWithoutLoadAreLeftOutOfTheMean) {
  LoadStatsMean mean;
  mean.Add(ComputeLoadStats(std::vector<int64_t>{0, 0, 0}));

  EXPECT_EQ(mean.num_layers(), 0);
  EXPECT_EQ(mean.Mean().utilisation, 1);

  mean.Add(ComputeLoadStats(std::vector<int64_t>{1, 3}));

  EXPECT_EQ(mean.num_layers(), 1);
  EXPECT_DOUBLE_EQ(mean.Mean().utilisation, 2.0 / 3);
  EXPECT_DOUBLE_EQ(mean.Mean().gini, 0.25);
}

}  // namespace
}  // namespace strata
