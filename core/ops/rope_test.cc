#include "core/ops/rope.h"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "core/graph/builder.h"
#include "core/graph/graph.h"
#include "core/graph/op_def.h"
#include "core/tensor/dtype.h"
#include "core/testing/status_matchers.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace strata {
namespace {

using ::testing::HasSubstr;

constexpr auto kInvalid = absl::StatusCode::kInvalidArgument;

class RopeTest : public testing::Test {
 protected:
  // Of the latest node, when `t` of the ragged rows are there.
  Cost LatestCost(double t) {
    return CostOf(b_.graph(), b_.graph().nodes().back(),
                  [t](ValueId, int64_t) { return t; });
  }
  std::string Text(ValueId value) { return ToText(b_.graph(), b_.type(value)); }
  ValueId Float(const char* name, Dims dims) {
    return b_.Input(name, DType::kF32, dims);
  }
  ValueId Int(const char* name, Dims dims) {
    return b_.Input(name, DType::kI32, dims);
  }
  void ExpectError(const char* text) {
    EXPECT_THAT(b_.status(), StatusIs(kInvalid, HasSubstr(text)));
  }

  GraphBuilder b_{DType::kF32};
  const Dim t_ = Ragged(30, b_.Input("t", DType::kI32, {}));
};

TEST_F(RopeTest, KeepsTheShape) {
  EXPECT_EQ(Text(Rope(b_, Float("x", {t_, Static(24)}), Int("p", {t_}),
                      {/*num_heads=*/3, /*rotary_dim=*/6})),
            "F32[t<=30, 24]");
}

TEST_F(RopeTest, WantsWholeHeads) {
  Rope(b_, Float("x", {t_, Static(24)}), Int("p", {t_}), {5, 4});
  ExpectError("num_heads is 5; want a divisor of 24, the columns of x");
}

TEST_F(RopeTest, WantsAnEvenPartOfAHead) {
  for (const int64_t rotary_dim : {0, 5, 10}) {
    GraphBuilder b;
    const ValueId x = b.Input("x", DType::kF32, {Static(2), Static(24)});
    Rope(b, x, b.Input("p", DType::kI32, {Static(2)}), {3, rotary_dim});
    EXPECT_THAT(b.status(),
                StatusIs(kInvalid, HasSubstr("want an even number from 2 to 8, "
                                             "the columns of a head")));
  }
}

TEST_F(RopeTest, WantsAPositionARow) {
  Rope(b_, Float("x", {t_, Static(24)}), Int("p", {Static(30)}), {3, 4});
  ExpectError("position is I32[30]; want I32[t<=30]");
}

TEST_F(RopeTest, WantsALengthARow) {
  Rope(b_, Float("x", {t_, Static(24)}), Int("p", {t_}), {3, 4},
       /*inverse=*/false, Int("n", {Static(30)}));
  ExpectError("seq_len is I32[30]; want I32[t<=30]");
}

TEST_F(RopeTest, WantsAPositiveTheta) {
  Rope(b_, Float("x", {t_, Static(24)}), Int("p", {t_}), {3, 4, 0});
  ExpectError("theta is 0; want more than 0");
}

TEST_F(RopeTest, CostsThreeFlopsARotatedColumn) {
  Rope(b_, Float("x", {t_, Static(24)}), Int("p", {t_}), {3, 6});
  EXPECT_EQ(LatestCost(20).flops, 3 * 20 * 3 * 6);
}

std::vector<double> Frequencies(const RopeOptions& options, int64_t seq_len) {
  std::vector<double> frequency(options.rotary_dim / 2);
  RopeFrequencies(options, seq_len, frequency.data());
  return frequency;
}

RopeOptions Stretched(RopeStretch stretch, double factor, double original_len) {
  RopeOptions options;
  options.rotary_dim = 64;
  options.stretch = stretch;
  options.factor = factor;
  options.original_len = original_len;
  return options;
}

TEST(RopeFrequenciesTest, AreLowerByTheFactorIfLinear) {
  RopeOptions options = Stretched(RopeStretch::kNone, 1, 0);
  const std::vector<double> plain = Frequencies(options, 100);
  EXPECT_EQ(plain[0], 1);
  EXPECT_NEAR(plain[16], 0.01, 1e-15);  // 10000^(-32 / 64)
  options.stretch = RopeStretch::kLinear;
  options.factor = 4;
  for (int j = 0; j < 32; ++j) {
    EXPECT_DOUBLE_EQ(Frequencies(options, 100)[j], plain[j] / 4);
  }
}

TEST(RopeFrequenciesTest, AreOfALargerThetaBeyondTheOriginalLengthIfDynamic) {
  const RopeOptions options = Stretched(RopeStretch::kDynamic, 2, 128);
  const std::vector<double> plain =
      Frequencies(Stretched(RopeStretch::kNone, 1, 0), 1);
  EXPECT_EQ(Frequencies(options, 128), plain);
  // theta * (2 * 256 / 128 - 1)^(64 / 62)
  const double theta = 10000 * std::pow(3, 64.0 / 62);
  EXPECT_NEAR(Frequencies(options, 256)[16], std::pow(theta, -0.5), 1e-15);
}

// DeepSeek-V3: columns below 10 are kept, from 23 on divided by 40.
TEST(RopeFrequenciesTest, AreARampBetweenTheTwoIfYarn) {
  const RopeOptions options = Stretched(RopeStretch::kYarn, 40, 4096);
  const std::vector<double> plain =
      Frequencies(Stretched(RopeStretch::kNone, 1, 0), 1);
  const std::vector<double> got = Frequencies(options, 1);
  for (int j = 0; j < 32; ++j) {
    const double ramp = std::clamp((j - 10) / 13.0, 0.0, 1.0);
    EXPECT_NEAR(got[j] / plain[j], ramp / 40 + 1 - ramp, 1e-12) << j;
  }
}

// Waves longer than 8192 / 1 are stretched, those shorter than 8192 / 4 kept.
TEST(RopeFrequenciesTest, BlendWavesBetweenTheLimitsIfLlama3) {
  RopeOptions options = Stretched(RopeStretch::kLlama3, 8, 8192);
  options.low = 1;
  options.high = 4;
  const std::vector<double> plain =
      Frequencies(Stretched(RopeStretch::kNone, 1, 0), 1);
  const std::vector<double> got = Frequencies(options, 1);
  int kept = 0, stretched = 0, blended = 0;
  for (int j = 0; j < 32; ++j) {
    const double wave = 2 * M_PI / plain[j];
    if (wave < 8192 / 4.0) {
      EXPECT_DOUBLE_EQ(got[j], plain[j]) << j;
      ++kept;
    } else if (wave > 8192) {
      EXPECT_DOUBLE_EQ(got[j], plain[j] / 8) << j;
      ++stretched;
    } else {
      const double smooth = (8192 / wave - 1) / 3;
      EXPECT_NEAR(got[j], (1 - smooth) * plain[j] / 8 + smooth * plain[j],
                  1e-15);
      ++blended;
    }
  }
  EXPECT_GT(kept, 0);
  EXPECT_GT(blended, 0);
  EXPECT_GT(stretched, 0);
}

TEST_F(RopeTest, WantsAStretchThatCanBe) {
  const auto error = [](const RopeOptions& options) {
    GraphBuilder b;
    const ValueId x = b.Input("x", DType::kF32, {Static(2), Static(64)});
    Rope(b, x, b.Input("p", DType::kI32, {Static(2)}), options);
    return std::string(b.status().message());
  };
  EXPECT_THAT(error(Stretched(RopeStretch::kLinear, 0, 0)),
              HasSubstr("factor is 0; want more than 0"));
  EXPECT_THAT(error(Stretched(RopeStretch::kDynamic, 2, 0)),
              HasSubstr("original_len is 0; want more than 0"));
  RopeOptions options = Stretched(RopeStretch::kDynamic, 2, 8);
  options.rotary_dim = 2;
  EXPECT_THAT(error(options), HasSubstr("rotary_dim is 2; want at least 4"));
  options = Stretched(RopeStretch::kYarn, 2, 8);
  options.low = options.high;
  EXPECT_THAT(error(options), HasSubstr("want 0 < low < high"));
}

}  // namespace
}  // namespace strata
