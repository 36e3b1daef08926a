#include "training/inspect/specialisation.h"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <numeric>
#include <vector>

#include "core/base/random.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace strata {
namespace {

using ::testing::DoubleNear;
using ::testing::Each;
using ::testing::ElementsAre;
using ::testing::Gt;
using ::testing::Le;

// Sums of some hundred terms of order 1, each rounded to 2^-53.
constexpr double kTolerance = 1e-12;

RowCounts RandomRows(Random& random, int domains, int experts, int most) {
  RowCounts rows(domains, std::vector<int64_t>(experts, 0));
  for (auto& domain : rows) {
    for (int64_t& count : domain) count = random.UniformInt(most + 1);
  }
  return rows;
}

TEST(MeasureSpecialisationTest, IsZeroWhereDomainsUseExpertsAlike) {
  // The second domain has three times the rows, in the same shares.
  const Specialisation s = MeasureSpecialisation({{10, 30, 0}, {30, 90, 0}});

  EXPECT_EQ(s.bits, 0);
  EXPECT_EQ(s.domain_bits, 1);
  EXPECT_NEAR(s.expert_bits, 2 - 0.75 * std::log2(3.0), kTolerance);
}

TEST(MeasureSpecialisationTest, IsTheWholeEntropyWithAnExpertForEachDomain) {
  const Specialisation s = MeasureSpecialisation(
      {{7, 0, 0, 0}, {0, 9, 0, 0}, {0, 0, 50, 0}, {0, 0, 0, 1}});

  EXPECT_NEAR(s.bits, 2, kTolerance);
  EXPECT_NEAR(s.bound_bits(), 2, kTolerance);
  // One expert a domain has no bias from within the domain; nor has the mean,
  // whose every part is certain.
  EXPECT_NEAR(s.corrected_bits, 2, kTolerance);
  EXPECT_NEAR(s.normalised(), 1, kTolerance);
}

TEST(MeasureSpecialisationTest, AgreesWithTwoByTwoByHand) {
  // p(e | a) = (3/4, 1/4), p(e | b) = (1/4, 3/4), p(e) = (1/2, 1/2):
  // I = 3/4 log2(3/2) + 1/4 log2(1/2) = 3/4 log2 3 - 1, of H = 1 bit.
  // Bias in nats, with N = 40 rows in each of D = 2 domains:
  //   conditional   mean over d of (2 - 1) / (2 * 40)             = 1/80
  //   marginal      per d: 2 * (3/16) / (1/2) / (2 * 40 * 4)      = 3/1280
  //                 over both                                     = 3/640
  //   difference    5/640 = 1/128
  const Specialisation s = MeasureSpecialisation({{30, 10}, {10, 30}});

  EXPECT_NEAR(s.bits, 0.75 * std::log2(3.0) - 1, kTolerance);
  EXPECT_NEAR(s.bits - s.corrected_bits, 1 / (128 * std::log(2.0)), kTolerance);
  EXPECT_EQ(s.bound_bits(), 1);
  EXPECT_NEAR(s.normalised(), s.corrected_bits, kTolerance);
}

TEST(MeasureSpecialisationTest, CorrectsAsMillerAndMadowWhereDomainsAreAlike) {
  // Theirs: (E - 1) (D - 1) / (2 N) nats, here 3 * 2 / (2 * 60).
  const Specialisation s =
      MeasureSpecialisation({{5, 5, 5, 5}, {5, 5, 5, 5}, {5, 5, 5, 5}});

  EXPECT_EQ(s.bits, 0);
  EXPECT_NEAR(-s.corrected_bits, 1 / (20 * std::log(2.0)), kTolerance);
}

TEST(MeasureSpecialisationTest, CorrectsIndependentSamplesToZeroOnAverage) {
  // 400 samples of 50 and 100 rows over 6 experts that know nothing.
  constexpr int kSamples = 400;
  Random random(/*seed=*/1, /*stream=*/0);
  double bits = 0;
  double corrected = 0;
  for (int i = 0; i < kSamples; ++i) {
    RowCounts rows(2, std::vector<int64_t>(6, 0));
    for (int r = 0; r < 150; ++r) ++rows[r % 3 == 0][random.UniformInt(6)];
    const Specialisation s = MeasureSpecialisation(rows);
    bits += s.bits / kSamples;
    corrected += s.corrected_bits / kSamples;
  }

  // 2 N ln 2 times I is about chi-squared with 5 degrees: its mean is what the
  // correction takes off, its deviation sqrt(2 / 5) of the mean, so that of 400
  // samples is 3 % of it. The correction's own second order is about as much.
  EXPECT_THAT(bits, Gt(0.02));
  EXPECT_THAT(std::abs(corrected), Le(0.15 * bits));
}

TEST(MeasureSpecialisationTest, LeavesOutDomainsWithoutRows) {
  const Specialisation all = MeasureSpecialisation({{3, 1}, {1, 3}});
  const Specialisation s = MeasureSpecialisation({{3, 1}, {0, 0}, {1, 3}});

  EXPECT_EQ(s.bits, all.bits);
  EXPECT_EQ(s.corrected_bits, all.corrected_bits);
  EXPECT_EQ(s.domain_bits, 1);
}

TEST(MeasureSpecialisationTest, IsZeroWithoutRows) {
  for (const RowCounts& rows : {RowCounts{}, RowCounts{{0, 0}, {0, 0}}}) {
    const Specialisation s = MeasureSpecialisation(rows);
    EXPECT_EQ(s.bits, 0);
    EXPECT_EQ(s.corrected_bits, 0);
    EXPECT_EQ(s.normalised(), 0);
  }
}

TEST(MeasureSpecialisationTest, StaysWithinItsBoundsAndIgnoresTheOrder) {
  Random random(/*seed=*/2, /*stream=*/0);
  for (int i = 0; i < 300; ++i) {
    const int domains = 1 + static_cast<int>(random.UniformInt(5));
    const int experts = 1 + static_cast<int>(random.UniformInt(9));
    RowCounts rows =
        RandomRows(random, domains, experts, i % 2 == 0 ? 3 : 1000);

    const Specialisation s = MeasureSpecialisation(rows);
    std::rotate(rows.begin(), rows.begin() + domains / 2, rows.end());
    for (auto& domain : rows) std::reverse(domain.begin(), domain.end());
    const Specialisation permuted = MeasureSpecialisation(rows);

    EXPECT_GE(s.bits, 0);
    EXPECT_LE(s.bits, s.bound_bits() + kTolerance);
    EXPECT_NEAR(permuted.bits, s.bits, kTolerance);
    EXPECT_NEAR(permuted.corrected_bits, s.corrected_bits, kTolerance);
  }
}

TEST(ProfileExpertsTest, WeighsDomainsAlike) {
  // Expert 0 has 100 rows of each domain, but those are all that the second
  // has and a tenth of the first's: shares 1 : 10.
  const auto profiles = ProfileExperts({{100, 900, 0}, {100, 0, 0}});

  ASSERT_EQ(profiles.size(), 3);
  EXPECT_NEAR(profiles[0].load, 0.55, kTolerance);
  EXPECT_THAT(profiles[0].domain_share,
              ElementsAre(DoubleNear(1.0 / 11, kTolerance),
                          DoubleNear(10.0 / 11, kTolerance)));
  EXPECT_NEAR(profiles[1].bits, 1, kTolerance);
  EXPECT_EQ(profiles[2].load, 0);
  EXPECT_THAT(profiles[2].domain_share, Each(0));
  EXPECT_EQ(profiles[2].bits, 0);
}

TEST(ProfileExpertsTest, AddsUpToTheInformation) {
  Random random(/*seed=*/3, /*stream=*/0);
  for (int i = 0; i < 100; ++i) {
    RowCounts rows = RandomRows(random, 4, 6, 5);
    if (i % 4 == 0) std::fill(rows[2].begin(), rows[2].end(), 0);

    double bits = 0;
    double load = 0;
    for (const ExpertProfile& profile : ProfileExperts(rows)) {
      bits += profile.load * profile.bits;
      load += profile.load;
    }

    EXPECT_NEAR(bits, MeasureSpecialisation(rows).bits, kTolerance);
    EXPECT_NEAR(load, 1, kTolerance);
  }
}

// Windows of 64 rows. Each leans to an expert of its own (`topic`) or of its
// domain.
WindowRows Windows(bool by_domain) {
  Random random(/*seed=*/4, /*stream=*/by_domain);
  WindowRows windows;
  for (int w = 0; w < 60; ++w) {
    windows.domain.push_back(w / 20);
    std::vector<int64_t>& rows = windows.rows.emplace_back(6, 0);
    const uint64_t topic = by_domain ? w / 20 : random.UniformInt(6);
    for (int r = 0; r < 64; ++r) {
      ++rows[random.UniformInt(2) == 0 ? topic : random.UniformInt(6)];
    }
  }
  return windows;
}

TEST(ShuffledBitsTest, TellsDomainsFromTheLikenessWithinAWindow) {
  for (const bool by_domain : {false, true}) {
    const WindowRows windows = Windows(by_domain);
    const Specialisation s = MeasureSpecialisation(SumByDomain(windows, 3));

    const NullTest test =
        CompareToNull(s.bits, ShuffledBits(windows, 3, 200, /*seed=*/1));

    // Windows of a topic each look like knowledge to a correction that takes
    // rows for independent, not to the shuffles.
    EXPECT_THAT(s.corrected_bits, Gt(0.005)) << by_domain;
    if (by_domain) {
      EXPECT_THAT(s.bits, Gt(3 * test.upper));
      EXPECT_NEAR(test.p_value, 1.0 / 201, kTolerance);
    } else {
      EXPECT_THAT(test.p_value, Gt(0.05));
    }
  }
}

TEST(ShuffledBitsTest, IsAFunctionOfTheSeedAndKeepsWindowsPerDomain) {
  // A window a domain, an expert a window: any deal gives the same bits.
  const WindowRows windows = {{0, 1, 2}, {{4, 0, 0}, {0, 4, 0}, {0, 0, 4}}};
  EXPECT_THAT(ShuffledBits(windows, 3, 20, /*seed=*/1),
              Each(DoubleNear(std::log2(3.0), kTolerance)));

  const WindowRows many = Windows(false);
  EXPECT_EQ(ShuffledBits(many, 3, 9, 1), ShuffledBits(many, 3, 9, 1));
  EXPECT_NE(ShuffledBits(many, 3, 9, 1), ShuffledBits(many, 3, 9, 2));
}

TEST(CompareToNullTest, CountsTheDataAmongItsShuffles) {
  std::vector<double> shuffled(100);
  std::iota(shuffled.begin(), shuffled.end(), 1);  // 1 to 100.

  const NullTest test = CompareToNull(98, shuffled);

  EXPECT_EQ(test.mean, 50.5);
  EXPECT_EQ(test.upper, 95);
  EXPECT_NEAR(test.p_value, 4.0 / 101, kTolerance);  // 98, 99, 100 and itself.
  EXPECT_EQ(CompareToNull(0, shuffled).p_value, 1);
  EXPECT_EQ(CompareToNull(1, {}).p_value, 1);
}

TEST(SumByDomainTest, SumsTheWindowsOfEach) {
  const RowCounts sum =
      SumByDomain({{1, 0, 1}, {{1, 2}, {4, 8}, {16, 32}}}, /*num_domains=*/3);

  EXPECT_THAT(sum, ElementsAre(ElementsAre(4, 8), ElementsAre(17, 34),
                               ElementsAre(0, 0)));
}

}  // namespace
}  // namespace strata
