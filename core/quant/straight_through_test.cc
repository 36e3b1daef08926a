#include "core/quant/straight_through.h"

#include <cmath>
#include <cstdint>
#include <vector>

#include "core/base/random.h"
#include "core/quant/format.h"
#include "core/quant/quantized_matrix.h"
#include "core/tensor/bfloat16.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace strata {
namespace {

using ::testing::Each;

std::vector<float> Normal(int64_t n, uint64_t seed) {
  Random random(seed, /*stream=*/0);
  std::vector<float> x(n);
  for (float& v : x) v = static_cast<float>(random.Normal());
  return x;
}

// The memory of a matrix that is learned.
class LearnedMatrix {
 public:
  explicit LearnedMatrix(const QuantizedMatrix& m)
      : format_(m.format), rows_(m.rows), columns_(m.columns) {
    position_.resize(m.code.size());
    scale_.resize(m.scale.size());
    zero_.resize(m.scale.size());
    moments_.resize(m.scale.size() * kGroupMoments);
    for (int64_t row = 0; row < rows_; ++row) BeginRow(m, row, Row(row));
  }

  LearnedRow Row(int64_t row) {
    const int64_t first = row * NumGroups(format_, columns_);
    return {format_,
            columns_,
            position_.data() + row * columns_,
            scale_.data() + first,
            zero_.data() + first,
            moments_.data() + first * kGroupMoments};
  }

  QuantizedMatrix Rounded() {
    QuantizedMatrix out(format_, rows_, columns_);
    for (int64_t row = 0; row < rows_; ++row) RoundRow(Row(row), row, out);
    return out;
  }

  // A step of row 0 whose numbers an optimiser moved by `moves`; the new ones.
  std::vector<float> Move(const std::vector<float>& gradient,
                          const std::vector<float>& moves,
                          const AdamRates& rates) {
    std::vector<float> w(columns_);
    Rounded().DequantizeRow(0, w.data());
    for (int64_t c = 0; c < columns_; ++c) w[c] += moves[c];
    MoveRow(Row(0), gradient.data(), rates, w.data());
    return w;
  }

 private:
  const QuantFormat format_;
  const int64_t rows_, columns_;
  std::vector<float> position_, scale_, zero_, moments_;
};

// A row of one group in INT2, of that zero and a scale of 0.5.
QuantizedMatrix Row(const std::vector<uint8_t>& codes, uint8_t zero,
                    bool symmetric) {
  QuantizedMatrix m({2, 0, symmetric}, 1, static_cast<int64_t>(codes.size()));
  m.code = codes;
  m.zero = {zero};
  m.scale = {RoundToBFloat16(0.5f)};
  return m;
}

class LearnedMatrixTest : public ::testing::TestWithParam<QuantFormat> {};

TEST_P(LearnedMatrixTest, IsTheMatrixThatItWasMadeOf) {
  const std::vector<float> w = Normal(3 * 128, 1);
  const QuantizedMatrix m = RoundToNearest(w.data(), 3, 128, GetParam());
  const QuantizedMatrix again = LearnedMatrix(m).Rounded();
  EXPECT_EQ(again.code, m.code);
  EXPECT_EQ(again.zero, m.zero);
  EXPECT_EQ(again.Dequantize(), m.Dequantize());
}

// Of the loss |w' - t|^2 / 2 the gradient is w' - t; t lies where codes and
// scales of another matrix of the format do, so that there is something to be
// found. Codes are as they should be and stay.
TEST_P(LearnedMatrixTest, ComesCloserToANearbyMatrixOfItsFormat) {
  constexpr int64_t kRows = 4, kColumns = 128;
  const std::vector<float> numbers = Normal(kRows * kColumns, 2);
  QuantizedMatrix target =
      RoundToNearest(numbers.data(), kRows, kColumns, GetParam());
  for (BFloat16& s : target.scale) s = RoundToBFloat16(1.25f * Widen(s));
  const std::vector<float> t = target.Dequantize();
  LearnedMatrix learned(
      RoundToNearest(numbers.data(), kRows, kColumns, GetParam()));
  std::vector<float> w = learned.Rounded().Dequantize();
  const auto distance = [&] {
    double sum = 0;
    for (size_t i = 0; i < w.size(); ++i) {
      sum += (w[i] - t[i]) * double{w[i] - t[i]};
    }
    return sum;
  };
  const double before = distance();
  AdamRates rates;
  rates.rate = 0.005 * GetParam().middle();  // Scales: half a percent a step.
  for (rates.step = 1; rates.step <= 200; ++rates.step) {
    std::vector<float> gradient = w;
    for (size_t i = 0; i < w.size(); ++i) gradient[i] -= t[i];
    for (int64_t row = 0; row < kRows; ++row) {
      MoveRow(learned.Row(row), gradient.data() + row * kColumns, rates,
              w.data() + row * kColumns);
    }
  }
  EXPECT_EQ(w, learned.Rounded().Dequantize());
  // Scales are 1.25 times too small, and are found to within a move or so.
  EXPECT_LT(distance(), 0.1 * before);
}

INSTANTIATE_TEST_SUITE_P(Formats, LearnedMatrixTest,
                         ::testing::Values(QuantFormat{2, 32, true},
                                           QuantFormat{2, 32, false},
                                           QuantFormat{4, 0, true},
                                           QuantFormat{4, 64, false},
                                           QuantFormat{8, 128, true}));

TEST(MoveRowTest, MovesACodeOnceItsNumberHasGoneHalfAStep) {
  LearnedMatrix learned(Row({1, 2, 2, 0}, 2, true));
  AdamRates rates;  // Of 0: scales stay.
  const std::vector<float> none(4);
  const std::vector<float> moves = {0.3f, 0.3f, -0.3f, -0.3f};
  learned.Move(none, moves, rates);
  EXPECT_EQ(learned.Rounded().code, (std::vector<uint8_t>{1, 2, 2, 0}));
  learned.Move(none, moves, rates);
  EXPECT_EQ(learned.Rounded().code, (std::vector<uint8_t>{2, 3, 1, 0}));
}

TEST(MoveRowTest, ANumberThatIsClippedStaysUntilItIsLedBack) {
  LearnedMatrix learned(Row({0, 3}, 2, true));
  AdamRates rates;
  const std::vector<float> none(2);
  const std::vector<float> out = {-0.6f, 0.6f}, back = {0.2f, -0.2f};
  for (int i = 0; i < 50; ++i) {
    learned.Move(none, out, rates);
  }
  EXPECT_EQ(learned.Rounded().code, (std::vector<uint8_t>{0, 3}));
  // From 0.6 outside it takes six moves of 0.2 to be half a step inside.
  for (int i = 0; i < 5; ++i) {
    learned.Move(none, back, rates);
  }
  EXPECT_EQ(learned.Rounded().code, (std::vector<uint8_t>{0, 3}));
  learned.Move(none, back, rates);
  EXPECT_EQ(learned.Rounded().code, (std::vector<uint8_t>{1, 2}));
}

// The sign of dL/ds = sum of g (code - z) decides where Adam's first step goes,
// and the rate how far: a code at the end moves by a rate's share of a step.
TEST(MoveRowTest, AScaleMovesAgainstTheSumOfItsCodesGradients) {
  const std::vector<float> still(3);
  for (const float sign : {1.0f, -1.0f}) {
    // Codes less the zero are -2, 0 and 1; only the first has a gradient.
    LearnedMatrix learned(Row({0, 2, 3}, 2, true));
    AdamRates rates;
    rates.rate = 0.25;
    const std::vector<float> gradient = {sign, 0, 0};
    learned.Move(gradient, still, rates);
    // The product of all codes' gradients and codes is -2 sign.
    EXPECT_FLOAT_EQ(Widen(learned.Rounded().scale[0]),
                    0.5f * (1 + sign * 0.125f));
  }
}

TEST(MoveRowTest, AZeroMovesByWhatIsClippedAlone) {
  const std::vector<float> still(3), gradient = {0, 0, 1};
  AdamRates rates;
  LearnedMatrix inside(Row({0, 1, 3}, 1, false));
  rates.rate = 0.6;
  inside.Move(gradient, still, rates);
  EXPECT_THAT(inside.Rounded().zero, Each(1));

  // 0.6 above the last code, and the loss falls as it falls: the zero rises,
  // and with it where clipping begins falls, by a step.
  LearnedMatrix clipped(Row({0, 1, 3}, 1, false));
  rates.rate = 0;
  const std::vector<float> out = {0, 0, 0.6f};
  clipped.Move(gradient, out, rates);
  rates.rate = 0.6;
  clipped.Move(gradient, still, rates);
  const QuantizedMatrix m = clipped.Rounded();
  EXPECT_THAT(m.zero, Each(2));
  // Numbers stay where they are but for the last: -1, 0 and, of 2.6, now 1.
  EXPECT_EQ(m.code, (std::vector<uint8_t>{1, 2, 3}));
}

TEST(MoveRowTest, AGroupWithoutAScaleStays) {
  QuantizedMatrix m = Row({2, 2}, 2, true);
  m.scale = {RoundToBFloat16(0)};
  LearnedMatrix learned(m);
  AdamRates rates;
  rates.rate = 1;
  const std::vector<float> gradient = {1, 1}, moves = {5, 5};
  learned.Move(gradient, moves, rates);
  EXPECT_EQ(learned.Rounded().code, m.code);
  EXPECT_THAT(learned.Rounded().Dequantize(), Each(0));
}

}  // namespace
}  // namespace strata
