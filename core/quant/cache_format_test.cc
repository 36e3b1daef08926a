#include "core/quant/cache_format.h"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <vector>

#include "absl/status/status.h"
#include "core/base/random.h"
#include "core/quant/log_levels.h"
#include "core/testing/status_matchers.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace strata {
namespace {

using ::testing::HasSubstr;

constexpr CacheFormat kPacked[] = {CacheFormat::kBF16, CacheFormat::kInt8,
                                   CacheFormat::kInt4};

std::vector<float> RoundTrip(CacheFormat format, bool power_of_two,
                             const std::vector<float>& x) {
  const auto columns = static_cast<int64_t>(x.size());
  std::vector<uint8_t> packed(CacheHeadBytes(format, columns));
  PackCacheHead(format, power_of_two, x.data(), columns, packed.data());
  std::vector<float> y(columns);
  UnpackCacheHead(format, packed.data(), columns, y.data());
  return y;
}

// The header's bound of an element's error, its group's largest being `a`. A
// scale is rounded up by 2^-7 at most, and the quotient by 2^-24.
double Bound(CacheFormat format, bool power_of_two, double x, double a) {
  constexpr double kRoundedUp = 1 + 1.0 / 128;
  if (format == CacheFormat::kBF16) return std::abs(x) / 256;
  if (format == CacheFormat::kInt8) {
    return power_of_two ? a / 127 * (1 + 1e-6) : a / 254 * kRoundedUp;
  }
  return power_of_two ? a / 7.5 * (1 + 1e-6) : a / 8 * kRoundedUp;
}

TEST(CacheFormatTest, RoundsWithinTheBoundOfEachFormat) {
  for (const CacheFormat format : kPacked) {
    for (const bool power_of_two : {false, true}) {
      // Both sides of a group, and of two.
      for (const int64_t columns : {1, 31, 32, 33, 64, 65, 128}) {
        Random random(/*seed=*/columns, /*stream=*/0);
        for (int trial = 0; trial < 50; ++trial) {
          std::vector<float> x(columns);
          for (float& v : x) v = static_cast<float>(random.Normal());
          if (trial % 5 == 0) x[0] *= 100;  // An outlier.
          const std::vector<float> y = RoundTrip(format, power_of_two, x);
          for (int64_t c = 0; c < columns; ++c) {
            const auto group = x.begin() + c / kCacheGroup * kCacheGroup;
            const auto end =
                x.begin() +
                std::min<int64_t>(columns, group - x.begin() + kCacheGroup);
            double a = 0;
            for (auto it = group; it != end; ++it) {
              a = std::max<double>(a, std::abs(*it));
            }
            ASSERT_LE(std::abs(static_cast<double>(y[c]) - x[c]),
                      Bound(format, power_of_two, x[c], a))
                << ToText(format) << " " << columns << " column " << c;
          }
        }
      }
    }
  }
}

TEST(CacheFormatTest, KeepsWhatItCanSay) {
  // Scales of 2, and the extreme code of each in every group.
  std::vector<float> int8(64), int4(64), bf16(64);
  for (int c = 0; c < 64; ++c) {
    int8[c] = 2.0f * (c == 5 || c == 40 ? 127 : c - 32);
    int4[c] = 2.0f * (c == 5 || c == 40 ? -8 : c % 16 - 8);
    bf16[c] = 0.0078125f * (128 + c);  // Eight bits.
  }
  EXPECT_EQ(RoundTrip(CacheFormat::kInt8, false, int8), int8);
  EXPECT_EQ(RoundTrip(CacheFormat::kInt8, true, int8), int8);
  EXPECT_EQ(RoundTrip(CacheFormat::kInt4, false, int4), int4);
  EXPECT_EQ(RoundTrip(CacheFormat::kBF16, false, bf16), bf16);
  const std::vector<float> zeros(64);
  for (const CacheFormat format : kPacked) {
    EXPECT_EQ(RoundTrip(format, false, zeros), zeros);
    EXPECT_EQ(RoundTrip(format, true, zeros), zeros);
  }
}

TEST(CacheFormatTest, MakesANaNOfWhatIsNotFiniteInItsGroupAlone) {
  for (const float bad : {std::numeric_limits<float>::quiet_NaN(),
                          std::numeric_limits<float>::infinity()}) {
    for (const CacheFormat format : {CacheFormat::kInt8, CacheFormat::kInt4}) {
      std::vector<float> x(64, 1.0f);
      x[40] = bad;
      const std::vector<float> y = RoundTrip(format, false, x);
      for (int c = 0; c < 64; ++c) EXPECT_EQ(std::isnan(y[c]), c >= 32);
    }
    std::vector<float> x(32, 1.0f);
    x[7] = bad;
    EXPECT_TRUE(std::isnan(RoundTrip(CacheFormat::kBF16, false, x)[7]));
  }
}

TEST(CacheFormatTest, CountsBytes) {
  EXPECT_EQ(CacheHeadBytes(CacheFormat::kF32, 33), 132);
  EXPECT_EQ(CacheHeadBytes(CacheFormat::kBF16, 33), 128);
  EXPECT_EQ(CacheHeadBytes(CacheFormat::kInt8, 64), 68);
  EXPECT_EQ(CacheHeadBytes(CacheFormat::kInt4, 64), 36);
  EXPECT_EQ(CacheHeadBytes(CacheFormat::kInt4, 65), 54);
  EXPECT_EQ(CacheRowBytes(CacheFormat::kInt8, 4, 256), 4 * 68);
}

TEST(CacheFormatTest, RejectsOptionsThatDoNotGoTogether) {
  constexpr auto kInvalid = absl::StatusCode::kInvalidArgument;
  EXPECT_THAT(CheckCacheOptions({CacheFormat::kInt8, 4}), IsOk());
  EXPECT_THAT(CheckCacheOptions({CacheFormat::kF32, 0}), IsOk());
  EXPECT_THAT(CheckCacheOptions({CacheFormat::kInt8, 3}),
              StatusIs(kInvalid, HasSubstr("have 3 bits; want 4 to 6")));
  EXPECT_THAT(CheckCacheOptions({CacheFormat::kBF16, 4}),
              StatusIs(kInvalid, HasSubstr("the cache is bf16; want int8")));
  EXPECT_THAT(CacheFormatOf("int3"),
              StatusIs(kInvalid, HasSubstr("no cache is called int3")));
  EXPECT_EQ(*CacheFormatOf("int4"), CacheFormat::kInt4);
}

TEST(LogLevelsTest, RoundsToTheNearestInLogarithms) {
  for (const int bits : {4, 5, 6}) {
    const LogLevels levels(bits);
    const int m = levels.steps_per_octave();
    EXPECT_EQ(levels.CodeOf(1), 0);
    EXPECT_EQ(levels.CodeOf(0), LogLevels::kDropped);
    for (double log = 0; log < 17; log += 0.0107) {
      const double exact = m * log;  // Steps below the largest.
      if (std::abs(exact - std::floor(exact) - 0.5) < 1e-4) continue;
      const auto want = static_cast<int>(std::floor(exact + 0.5));
      const int code = levels.CodeOf(static_cast<float>(std::exp2(-log)));
      EXPECT_EQ(code, want < 16 * m ? want : LogLevels::kDropped) << log;
      if (code == LogLevels::kDropped) continue;
      EXPECT_NEAR(levels.value(code), std::exp2(-want / double(m)), 1e-7);
    }
  }
}

// What a mean of values is by weights p, and by these as powers of two.
struct Means {
  double exact = 0;
  double rounded = 0;

  Means(const LogLevels& levels, const std::vector<double>& p,
        const std::vector<double>& value) {
    const double largest = *std::max_element(p.begin(), p.end());
    double sum = 0, rounded_sum = 0;
    for (size_t i = 0; i < p.size(); ++i) {
      const uint8_t code = levels.CodeOf(static_cast<float>(p[i] / largest));
      const double w = code == LogLevels::kDropped ? 0 : levels.value(code);
      sum += p[i];
      rounded_sum += w;
      exact += p[i] * value[i];
      rounded += w * value[i];
    }
    exact /= sum;
    rounded /= rounded_sum;
  }
};

TEST(LogLevelsTest, KeepsAMeanWithinItsBound) {
  for (const int bits : {4, 5, 6}) {
    const LogLevels levels(bits);
    Random random(/*seed=*/bits, /*stream=*/0);
    for (int trial = 0; trial < 2000; ++trial) {
      std::vector<double> p(2 + trial % 30), value(p.size());
      for (double& x : p) x = std::exp(3 * random.Normal());
      for (double& x : value) x = random.Uniform();
      const Means means(levels, p, value);
      // Beside the bound: 32 weights of 2^-15.5 that may be dropped.
      EXPECT_LE(std::abs(means.rounded - means.exact),
                levels.MaxMeanError() + 32 * 2.2e-5);
    }
  }
  EXPECT_NEAR(LogLevels(4).MaxMeanError(), 0.1716, 1e-4);
}

// The worst case: a share of 1 / (1 + f) goes up by f, the others down by f.
TEST(LogLevelsTest, ReachesItsBound) {
  for (const int bits : {4, 5, 6}) {
    const LogLevels levels(bits);
    const double f = std::exp2(0.5 / levels.steps_per_octave());
    constexpr int kTokens = 100'000;
    const auto num_up = static_cast<int>(kTokens / (1 + f));
    std::vector<double> p(kTokens, (1 - 1e-5) / f), value(kTokens);
    std::fill_n(p.begin(), num_up, (1 + 1e-5) / f);
    std::fill_n(value.begin(), num_up, 1);
    p.back() = 1;  // The largest, which the others are rounded against.
    const Means means(levels, p, value);
    EXPECT_NEAR(means.rounded - means.exact, levels.MaxMeanError(), 1e-4);
  }
}

}  // namespace
}  // namespace strata
