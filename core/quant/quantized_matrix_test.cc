#include "core/quant/quantized_matrix.h"

#include <cmath>
#include <cstdint>
#include <limits>
#include <vector>

#include "absl/status/status.h"
#include "core/base/random.h"
#include "core/quant/format.h"
#include "core/tensor/bfloat16.h"
#include "core/testing/status_matchers.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace strata {
namespace {

using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

constexpr auto kInvalid = absl::StatusCode::kInvalidArgument;

TEST(QuantizedMatrixTest, RoundsToTheNearestCodeOfItsGroup) {
  // The largest below zero is 8 steps of 0.5 away, so the scale is 0.5:
  // -4 -> code 0, 0.2 -> 8 + 0.4 -> 8, 0.3 -> 8.6 -> 9, 3.5 -> 15.
  std::vector<float> w(32, 0.0f);
  w[0] = -4, w[1] = 0.2f, w[2] = 0.3f, w[3] = 3.5f;
  const QuantizedMatrix m = RoundToNearest(w.data(), 1, 32, QuantFormat());
  EXPECT_EQ(Widen(m.scale[0]), 0.5f);
  EXPECT_EQ(m.code[0], 0);
  EXPECT_EQ(m.code[1], 8);
  EXPECT_EQ(m.code[2], 9);
  EXPECT_EQ(m.code[3], 15);
  const std::vector<float> back = m.Dequantize();
  EXPECT_THAT(std::vector<float>(back.begin(), back.begin() + 4),
              ElementsAre(-4, 0, 0.5f, 3.5f));
}

// Numbers that a format holds, whose groups reach both ends of the codes.
std::vector<float> Representable(const QuantFormat& format, int64_t rows,
                                 int64_t columns, Random& random) {
  std::vector<float> w(rows * columns);
  const int64_t group = GroupColumns(format, columns);
  for (int64_t at = 0; at < rows * columns; at += group) {
    const float scale =
        Widen(RoundToBFloat16(static_cast<float>(0.01 + random.Uniform())));
    const int zero =
        format.symmetric
            ? format.middle()
            : static_cast<int>(random.UniformInt(format.max_code() + 1));
    for (int64_t i = 0; i < group; ++i) {
      const int code =
          i == 0   ? 0
          : i == 1 ? format.max_code()
                   : static_cast<int>(random.UniformInt(format.max_code() + 1));
      w[at + i] = static_cast<float>(code - zero) * scale;
    }
  }
  return w;
}

TEST(QuantizedMatrixTest, KeepsEveryNumberThatItsFormatHolds) {
  Random random(/*seed=*/1, /*stream=*/0);
  for (const int bits : {2, 4, 8}) {
    for (const int64_t group : {0, 32, 64, 128}) {
      for (const bool symmetric : {true, false}) {
        const QuantFormat format = {bits, group, symmetric};
        SCOPED_TRACE(ToText(format));
        const std::vector<float> w = Representable(format, 5, 384, random);
        EXPECT_EQ(RoundToNearest(w.data(), 5, 384, format).Dequantize(), w);
      }
    }
  }
}

TEST(QuantizedMatrixTest, IsNeverFurtherThanHalfAStep) {
  Random random(/*seed=*/2, /*stream=*/0);
  std::vector<float> w(4 * 96);
  for (float& x : w) x = static_cast<float>(random.Normal());
  for (const bool symmetric : {true, false}) {
    for (const int bits : {2, 4, 8}) {
      const QuantFormat format = {bits, 32, symmetric};
      const QuantizedMatrix m = RoundToNearest(w.data(), 4, 96, format);
      const std::vector<float> back = m.Dequantize();
      for (size_t i = 0; i < w.size(); ++i) {
        // Asymmetric, the zero is rounded too, which shifts the ends by as
        // much again.
        const float step = Widen(m.scale[i / 32]);
        EXPECT_LE(std::abs(back[i] - w[i]),
                  (symmetric ? 0.5f : 1.0f) * step * 1.0001f);
      }
    }
  }
}

TEST(QuantizedMatrixTest, MakesZerosOfZeros) {
  const std::vector<float> w(64, 0.0f);
  for (const bool symmetric : {true, false}) {
    EXPECT_EQ(RoundToNearest(w.data(), 2, 32, {4, 32, symmetric}).Dequantize(),
              w);
  }
}

TEST(QuantizedMatrixTest, RefusesWhatCannotBeQuantised) {
  std::vector<float> w(96, 1.0f);
  EXPECT_THAT(CheckWeights("w", w.data(), 1, 96, {4, 64, true}),
              StatusIs(kInvalid, AllOf(HasSubstr("\"w\""), HasSubstr("64"),
                                       HasSubstr("96"))));
  EXPECT_THAT(CheckWeights("w", w.data(), 1, 96, {3, 32, true}),
              StatusIs(kInvalid, HasSubstr("3 bits")));
  EXPECT_THAT(CheckWeights("w", w.data(), 1, 9, {2, 0, true}), IsOk());
  EXPECT_THAT(CheckWeights("w", w.data(), 1, 8, {2, 0, true}),
              StatusIs(kInvalid, HasSubstr("rows of 8 columns")));
  EXPECT_THAT(CheckWeights("w", w.data(), 1, 96, {4, 48, true}),
              StatusIs(kInvalid, HasSubstr("groups of 48")));
  EXPECT_THAT(CheckWeights("w", w.data(), 1, 96, {4, 32, true}), IsOk());
  w[7] = std::numeric_limits<float>::quiet_NaN();
  EXPECT_THAT(
      CheckWeights("w", w.data(), 1, 96, {4, 32, true}),
      StatusIs(kInvalid, AllOf(HasSubstr("a NaN"), HasSubstr("element 7"))));
  w[7] = -std::numeric_limits<float>::infinity();
  EXPECT_THAT(CheckWeights("w", w.data(), 1, 96, {4, 32, true}),
              StatusIs(kInvalid, HasSubstr("an infinity")));
}

TEST(QuantizedMatrixTest, CountsTheBitsOfScalesAndZeros) {
  EXPECT_EQ(BitsPerWeight({4, 32, true}, 128), 4.5);       // 16 / 32
  EXPECT_EQ(BitsPerWeight({4, 32, false}, 128), 4.625);    // 20 / 32
  EXPECT_EQ(BitsPerWeight({2, 32, false}, 128), 2.5625);   // 18 / 32
  EXPECT_EQ(BitsPerWeight({8, 0, true}, 1024), 8.015625);  // 16 / 1024
}

}  // namespace
}  // namespace strata
