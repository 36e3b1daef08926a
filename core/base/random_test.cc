#include "core/base/random.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>
#include <set>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace strata {
namespace {

using ::testing::ElementsAre;

// The known answers that the authors of Philox publish with Random123.
TEST(Philox4x32Test, GivesThePublishedAnswers) {
  EXPECT_THAT(Philox4x32({0, 0, 0, 0}, {0, 0}),
              ElementsAre(0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8));
  EXPECT_THAT(Philox4x32({0xffffffff, 0xffffffff, 0xffffffff, 0xffffffff},
                         {0xffffffff, 0xffffffff}),
              ElementsAre(0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd));
  EXPECT_THAT(Philox4x32({0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344},
                         {0xa4093822, 0x299f31d0}),
              ElementsAre(0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1));
}

TEST(RandomTest, StartsWithTheWordsOfBlockZero) {
  Random random(/*seed=*/0, /*stream=*/0);

  EXPECT_EQ(random.Bits(), 0xe169c58d6627e8d5);
  EXPECT_EQ(random.Bits(), 0x9b00dbd8bc57ac4c);
}

TEST(RandomTest, NeverRepeatsAcrossSeedsStreamsAndHashes) {
  std::set<uint64_t> seen;
  for (uint64_t seed = 0; seed < 10; ++seed) {
    for (uint64_t stream = 0; stream < 10; ++stream) {
      Random random(seed, stream);
      for (int i = 0; i < 10; ++i) seen.insert(random.Bits());
      seen.insert(HashCounter(seed, stream));
      seen.insert(HashCounter(seed, stream, 1));
    }
  }
  EXPECT_EQ(seen.size(), 10 * 10 * 12);
}

TEST(RandomTest, UniformIsFlatOnTheUnitInterval) {
  Random random(/*seed=*/1, /*stream=*/2);
  constexpr int kNum = 100000, kBins = 100;
  std::vector<int> count(kBins);
  for (int i = 0; i < kNum; ++i) {
    const double x = random.Uniform();
    ASSERT_GE(x, 0);
    ASSERT_LT(x, 1);
    ++count[static_cast<int>(x * kBins)];
  }
  double chi2 = 0;
  for (const int c : count) chi2 += std::pow(c - 1000.0, 2) / 1000;
  EXPECT_LT(chi2, 99 + 5 * std::sqrt(2 * 99));  // Mean, five deviations.
}

TEST(RandomTest, UniformIntGivesEachValueItsShare) {
  Random random(/*seed=*/3, /*stream=*/0);
  for (const uint64_t n : {1, 2, 3, 7, 10}) {
    std::vector<int> count(n);
    for (uint64_t i = 0; i < 10000 * n; ++i) ++count[random.UniformInt(n)];
    for (const int c : count) EXPECT_NEAR(c, 10000, 500);  // Five deviations.
  }
}

// With n = 3/4 of 2^64 a plain modulus would give the lower third of the range
// twice the share of the rest: 1/2 of the draws, and not 1/3.
TEST(RandomTest, UniformIntIsUnbiasedForHugeRanges) {
  Random random(/*seed=*/4, /*stream=*/0);
  const uint64_t n = uint64_t{3} << 62;
  int num_low = 0;
  for (int i = 0; i < 30000; ++i) {
    const uint64_t x = random.UniformInt(n);
    ASSERT_LT(x, n);
    num_low += x < n / 3;
  }
  EXPECT_NEAR(num_low, 10000, 410);  // Five deviations.
}

// The largest distance between the empirical distribution and Phi.
TEST(RandomTest, NormalFollowsTheNormalDistribution) {
  Random random(/*seed=*/5, /*stream=*/6);
  constexpr int kNum = 100000;
  std::vector<double> x(kNum);
  for (double& value : x) value = random.Normal();
  std::sort(x.begin(), x.end());

  double distance = 0, sum = 0, sum2 = 0;
  for (int i = 0; i < kNum; ++i) {
    const double phi = 0.5 * std::erfc(-x[i] / std::sqrt(2));
    distance = std::max(distance, std::abs(phi - (i + 0.5) / kNum));
    sum += x[i];
    sum2 += x[i] * x[i];
  }

  EXPECT_LT(distance, 2.0 / std::sqrt(kNum));  // Kolmogorov: p < 0.001.
  EXPECT_NEAR(sum / kNum, 0, 5 / std::sqrt(kNum));
  EXPECT_NEAR(sum2 / kNum, 1, 5 * std::sqrt(2.0 / kNum));
  EXPECT_GT(x.back(), 3.5);  // Tails are there: 3.5 has 23 beyond it.
  EXPECT_LT(x.back(), 6);
}

// Holds our logarithm, sine and cosine to the C library's.
TEST(RandomTest, NormalIsBoxAndMullersFormula) {
  for (uint64_t stream = 0; stream < 2000; ++stream) {
    Random bits(/*seed=*/7, stream), normal(/*seed=*/7, stream);
    const double u = ((bits.Bits() >> 11) + 1) * 0x1p-53;
    const double v = (bits.Bits() >> 11) * 0x1p-53;
    const double distance = std::sqrt(-2 * std::log(u));
    // A few roundings of values up to 8.6 and an angle up to 2 pi.
    EXPECT_NEAR(normal.Normal(), distance * std::cos(2 * M_PI * v), 4e-14);
    EXPECT_NEAR(normal.Normal(), distance * std::sin(2 * M_PI * v), 4e-14);
  }
}

TEST(RandomTest, NormalIsTheSameOnEveryMachine) {
  Random random(/*seed=*/42, /*stream=*/0);
  double x[4];
  for (double& value : x) value = random.Normal();
  // Printed with %a; the same at -O0 and with fused multiply-adds at hand.
  EXPECT_THAT(x, ElementsAre(-0x1.54ac03c1a032ap-1, 0x1.0938db380d761p+0,
                             -0x1.6f135c80fefcap+0, 0x1.b16fd5e6389c6p-2));
}

TEST(HashNameTest, TellsNamesApart) {
  EXPECT_EQ(HashName(""), 0xcbf29ce484222325);
  EXPECT_EQ(HashName("a"), 0xaf63dc4c8601ec8c);  // FNV-1a's published value.
  EXPECT_NE(HashName("ab"), HashName("ba"));
}

}  // namespace
}  // namespace strata
