#include "core/cpu/quant/quant_product.h"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <functional>
#include <limits>
#include <set>
#include <utility>
#include <vector>

#include "core/base/random.h"
#include "core/cpu/quant/quant_panel.h"
#include "core/quant/format.h"
#include "core/quant/packed_rows.h"
#include "core/quant/quantized_matrix.h"
#include "core/tensor/bfloat16.h"
#include "core/testing/highway_targets.h"
#include "gtest/gtest.h"
#include "hwy/highway.h"

namespace strata {
namespace {

// Calls `body` with every instruction set that this processor has.
void ForEachTarget(const std::function<void()>& body) {
  strata::ForEachTarget({HWY_AVX3_DL, HWY_AVX2, HWY_SSE4}, body);
}

// The same with those that have panels.
void ForEachPanelTarget(const std::function<void()>& body) {
  strata::ForEachTarget({HWY_AVX3_DL, HWY_AVX2}, body);
}

struct Weights {
  QuantFormat format;
  int64_t n = 0, k = 0;
  std::vector<uint8_t> packed;  // In a block of exactly its size.
  std::vector<float> numbers;   // [n, k]

  Weights(const QuantFormat& format, int64_t n, int64_t k)
      : format(format), n(n), k(k) {
    Random random(/*seed=*/n, /*stream=*/k);
    std::vector<float> w(n * k);
    for (float& x : w) x = static_cast<float>(random.Normal());
    const QuantizedMatrix m = RoundToNearest(w.data(), n, k, format);
    const int64_t bytes = PackedRow(format, k).bytes, groups = m.num_groups();
    packed.resize(n * bytes);
    for (int64_t j = 0; j < n; ++j) {
      PackRow(format, k, &m.code[j * k], &m.scale[j * groups],
              &m.zero[j * groups], &packed[j * bytes]);
    }
    numbers = m.Dequantize();
  }
};

std::vector<float> Rows(int64_t m, int64_t k, bool outliers) {
  Random random(/*seed=*/m, /*stream=*/k);
  std::vector<float> x(m * k);
  for (int64_t i = 0; i < m * k; ++i) {
    x[i] = static_cast<float>(random.Normal());
    if (outliers && i % k % 32 == 5) x[i] = 1000;
  }
  return x;
}

// x in integers, in memory of its own.
struct Rounded {
  std::vector<char> memory;
  QuantizedRows rows;

  Rounded(const std::vector<float>& x, int64_t m, int64_t k)
      : memory(QuantizedRows::NumBytes(m, k) + 64) {
    rows = QuantizedRows::At(Align(memory), m, k);
    QuantProduct::Get().quantize(x.data(), k, 0, m, rows);
  }
  static char* Align(std::vector<char>& memory) {
    return memory.data() + 64 - reinterpret_cast<uintptr_t>(memory.data()) % 64;
  }
};

// y [m, n], of x rounded and then multiplied in one call.
std::vector<float> Multiply(const std::vector<float>& x, int64_t m,
                            const Weights& w, std::vector<uint8_t>* wide) {
  const Rounded of_x(x, m, w.k);
  if (wide != nullptr) wide->assign(of_x.rows.wide, of_x.rows.wide + m);
  std::vector<float> y(m * w.n);
  QuantProduct::Get().dots(of_x.rows, 0, m, w.packed.data(), w.format, w.k, w.n,
                           y.data(), w.n);
  return y;
}

// The same by a panel; w.n rows fit into one.
std::vector<float> MultiplyByPanel(const std::vector<float>& x, int64_t m,
                                   const Weights& w) {
  const Rounded of_x(x, m, w.k);
  std::vector<char> panel(PanelBytes(w.k) + 64);
  std::vector<float> y(m * w.n);
  QuantPanel::Get().multiply(of_x.rows, 0, m, w.packed.data(), w.format, w.k,
                             w.n, Rounded::Align(panel), y.data(), w.n);
  return y;
}

// Holds y to the product of the same weights in double.
//
// x is at most half a step away from what it is rounded to, a step being the
// block's largest over 127 or 127 * 256. The rest is rounding in float: of each
// block's sum (of the wide, beyond 24 bits), its scale and its addition, over
// products that are at most 2 * 255 steps of w and x; in eight lanes, or with
// `additions` times as many a lane.
void ExpectClose(const std::vector<float>& y, const std::vector<float>& x,
                 int64_t m, const Weights& w, bool wide,
                 int64_t additions = 1) {
  const double steps = wide ? 127 * 256 : 127;
  for (int64_t i = 0; i < m; ++i) {
    for (int64_t j = 0; j < w.n; ++j) {
      double want = 0, bound = 0, magnitude = 0;
      for (int64_t b = 0; b * 32 < w.k; ++b) {
        const int64_t end = std::min(w.k, (b + 1) * 32);
        double largest = 0, weights = 0;
        for (int64_t c = b * 32; c < end; ++c) {
          want += double{x[i * w.k + c]} * w.numbers[j * w.k + c];
          largest = std::max<double>(largest, std::abs(x[i * w.k + c]));
          weights += std::abs(w.numbers[j * w.k + c]);
        }
        bound += weights * largest / steps / 2;
        uint16_t bits;
        const int64_t group = b * 32 / GroupColumns(w.format, w.k);
        const PackedRow layout(w.format, w.k);
        std::memcpy(&bits,
                    &w.packed[j * layout.bytes + layout.code_bytes + 2 * group],
                    2);
        const double scale = Widen(BFloat16{bits});
        magnitude += 32 * largest * scale * 2 * w.format.max_code();
      }
      const double roundings =
          static_cast<double>(additions * w.k) / 32 / 8 + 12;
      bound = 1.001 * bound + roundings * std::ldexp(magnitude, -24);
      ASSERT_NEAR(y[i * w.n + j], want, bound) << i << " " << j;
    }
  }
}

// Both sides of: a block, what INT4 packs together, the scales of a pass; and
// rows that are no multiple of a block, which only a scale a row allows.
constexpr int64_t kColumns[] = {1,  31,  32,  33,  63,   64,  65,
                                96, 128, 160, 384, 4096, 4160};

TEST(QuantProductTest, MultipliesLikeTheWeightsInFloat) {
  ForEachTarget([] {
    for (const int bits : {2, 4, 8}) {
      for (const int64_t group : {0, 32, 64, 128}) {
        for (const bool symmetric : {true, false}) {
          const QuantFormat format = {bits, group, symmetric};
          for (const int64_t k : kColumns) {
            if (group > 0 && k % group != 0) continue;
            SCOPED_TRACE(testing::Message() << ToText(format) << " " << k);
            const Weights w(format, 3, k);
            const std::vector<float> x = Rows(2, k, false);
            ExpectClose(Multiply(x, 2, w, nullptr), x, 2, w, false);
          }
        }
      }
    }
  });
}

TEST(QuantProductTest, GivesRowsOfOutliersSixteenBits) {
  ForEachTarget([] {
    for (const QuantFormat format :
         {QuantFormat{2, 32, true}, QuantFormat{4, 32, true},
          QuantFormat{8, 64, false}}) {
      const Weights w(format, 5, 192);
      std::vector<uint8_t> wide;
      const std::vector<float> x = Rows(3, 192, true);
      const std::vector<float> y = Multiply(x, 3, w, &wide);
      EXPECT_EQ(wide, std::vector<uint8_t>(3, 1));
      ExpectClose(y, x, 3, w, true);

      const std::vector<float> even = Rows(3, 192, false);
      Multiply(even, 3, w, &wide);
      EXPECT_EQ(wide, std::vector<uint8_t>(3, 0));
    }
  });
}

// Alone, several rows of w share a sum's end; together, several of x share a
// pass. Columns with and without something behind the last 512, formats of all
// kinds of scales.
TEST(QuantProductTest, GivesARowTheSameBitsInAnyCompany) {
  ForEachTarget([] {
    for (const QuantFormat format :
         {QuantFormat{4, 32, true}, QuantFormat{4, 0, true},
          QuantFormat{4, 64, false}, QuantFormat{8, 32, true},
          QuantFormat{2, 32, true}, QuantFormat{2, 64, false}}) {
      for (const int64_t k : {64, 192, 512, 1088}) {
        SCOPED_TRACE(testing::Message() << ToText(format) << " " << k);
        const Weights w(format, 7, k);
        // Both sides of the rows that share a pass; one of them wide.
        std::vector<float> x = Rows(11, k, false);
        for (int64_t c = 0; c < k; c += 32) x[6 * k + c] = 1000;
        const std::vector<float> together = Multiply(x, 11, w, nullptr);
        for (int64_t i = 0; i < 11; ++i) {
          const std::vector<float> one(x.begin() + i * k,
                                       x.begin() + (i + 1) * k);
          EXPECT_EQ(Multiply(one, 1, w, nullptr),
                    std::vector<float>(together.begin() + i * w.n,
                                       together.begin() + (i + 1) * w.n));
        }
      }
    }
  });
}

// Sixteen products of the largest codes of 4 bits are what 16 bits just hold.
// All x are one number and all weights 7, or of 2 bits 1, so that nothing is
// rounded.
TEST(QuantProductTest, AddsTheLargestCodesWithoutOverflow) {
  ForEachTarget([] {
    for (const QuantFormat format :
         {QuantFormat{2, 32, true}, QuantFormat{4, 32, true}}) {
      for (const int64_t k : {512, 1088}) {
        for (const float sign : {1.0f, -1.0f}) {
          Weights w(format, 5, k);
          const auto largest = static_cast<uint8_t>(format.max_code());
          const std::vector<uint8_t> code(k, largest), zero(k / 32);
          const std::vector<BFloat16> scale(k / 32, RoundToBFloat16(1.0f));
          for (int64_t j = 0; j < w.n; ++j) {
            PackRow(format, k, code.data(), scale.data(), zero.data(),
                    &w.packed[j * PackedRow(format, k).bytes]);
          }
          const auto weight =
              static_cast<float>(format.max_code() - format.middle());
          const std::vector<float> x(k, 127 * sign);
          EXPECT_EQ(Multiply(x, 1, w, nullptr),
                    std::vector<float>(w.n, weight * 127 * sign * k));
        }
      }
    }
  });
}

// Rows of w on both sides of a vector of the panel, of x of what share a pass;
// tolerances as above, with fewer roundings: a float sum a block.
TEST(QuantPanelTest, MultipliesLikeTheWeightsInFloat) {
  ForEachPanelTarget([] {
    for (const int bits : {2, 4, 8}) {
      for (const int64_t group : {0, 32, 64, 128}) {
        for (const bool symmetric : {true, false}) {
          const QuantFormat format = {bits, group, symmetric};
          for (const int64_t k : kColumns) {
            if (group > 0 && k % group != 0) continue;
            for (const auto& [m, n] : std::vector<std::pair<int64_t, int64_t>>{
                     {1, 32}, {5, 1}, {7, 15}, {13, 17}}) {
              SCOPED_TRACE(testing::Message() << ToText(format) << " " << k);
              const Weights w(format, n, k);
              const std::vector<float> x = Rows(m, k, false);
              // A float sum takes a rounding a block here, one of eight there.
              ExpectClose(MultiplyByPanel(x, m, w), x, m, w, false, 8);
            }
          }
        }
      }
    }
  });
}

TEST(QuantPanelTest, TakesRowsOfBothWidthsAndGivesThemTheSameBitsAlone) {
  ForEachPanelTarget([] {
    for (const QuantFormat format :
         {QuantFormat{2, 64, false}, QuantFormat{4, 32, true},
          QuantFormat{8, 64, false}}) {
      const int64_t k = 192, m = 29;
      const Weights w(format, 21, k);
      std::vector<float> x = Rows(m, k, false);
      // Runs of one, of more than share a pass, and of the last row.
      const std::set<int64_t> wide = {3, 9, 10, 11, 12, 13, 14, 15, 28};
      for (const int64_t i : wide) {
        for (int64_t c = 5; c < k; c += 32) x[i * k + c] = 1000;
      }
      const std::vector<float> together = MultiplyByPanel(x, m, w);
      for (int64_t i = 0; i < m; ++i) {
        const std::vector<float> one(x.begin() + i * k,
                                     x.begin() + (i + 1) * k);
        const std::vector<float> alone = MultiplyByPanel(one, 1, w);
        ExpectClose(alone, one, 1, w, wide.count(i) > 0, 8);
        EXPECT_EQ(alone, std::vector<float>(together.begin() + i * w.n,
                                            together.begin() + (i + 1) * w.n));
      }
    }
  });
}

// Blocks on both sides of the eight sums that a row has; rows of both widths.
TEST(QuantPanelTest, GivesWhatDotsGiveWhereItSaysSo) {
  ForEachPanelTarget([] {
    if (!QuantPanel::Get().as_dots) return;
    for (const QuantFormat format :
         {QuantFormat{2, 64, false}, QuantFormat{4, 32, true},
          QuantFormat{4, 0, false}, QuantFormat{8, 64, false},
          QuantFormat{8, 32, true}}) {
      for (const int64_t k : {64, 192, 256, 320, 512, 1088}) {
        SCOPED_TRACE(testing::Message() << ToText(format) << " " << k);
        const int64_t m = 9;
        const Weights w(format, 19, k);
        std::vector<float> x = Rows(m, k, false);
        for (int64_t c = 5; c < k; c += 32) x[4 * k + c] = 1000;
        EXPECT_EQ(MultiplyByPanel(x, m, w), Multiply(x, m, w, nullptr));
      }
    }
  });
}

TEST(QuantPanelTest, GivesAColumnTheSameBitsInAnyCompany) {
  ForEachPanelTarget([] {
    for (const int bits : {2, 4, 8}) {
      const int64_t k = 192, m = 8;
      const Weights w({bits, 64, false}, 32, k);
      const std::vector<float> x = Rows(m, k, false);
      const std::vector<float> all = MultiplyByPanel(x, m, w);
      for (const int64_t n : {1, 8, 9, 16, 17, 31}) {
        Weights first = w;
        first.n = n;
        first.packed.resize(n * PackedRow(w.format, k).bytes);
        first.packed.shrink_to_fit();
        const std::vector<float> some = MultiplyByPanel(x, m, first);
        for (int64_t i = 0; i < m; ++i) {
          for (int64_t j = 0; j < n; ++j) {
            ASSERT_EQ(some[i * n + j], all[i * w.n + j])
                << bits << " " << n << " " << i << " " << j;
          }
        }
      }
    }
  });
}

// Sixteen products of the largest codes, whose zeros are the furthest away, by
// the largest numbers: 30480 of 16 bits' 32767, and in the lower half of a wide
// row, of codes of 127 * 256 - 128, 15 * -128 * 16 = -30720. All are integers
// that float has, so nothing is rounded; in wide rows but a scale of x, which
// is a power of two as their largest is a largest code.
TEST(QuantPanelTest, AddsTheLargestCodesWithoutOverflow) {
  ForEachPanelTarget([] {
    for (const int bits : {2, 4, 8}) {
      for (const int64_t k : {64, 1088}) {
        const QuantFormat format = {bits, 32, false};
        Weights w(format, 32, k);
        const int largest = format.max_code();
        const std::vector<BFloat16> scale(k / 32, RoundToBFloat16(1.0f));
        for (int64_t j = 0; j < w.n; ++j) {
          // Half of the rows the other way round.
          const bool down = j % 2 == 1;
          const std::vector<uint8_t> code(k, down ? 0 : largest);
          const std::vector<uint8_t> zero(k / 32, down ? largest : 0);
          PackRow(format, k, code.data(), scale.data(), zero.data(),
                  &w.packed[j * PackedRow(format, k).bytes]);
        }
        for (const float sign : {1.0f, -1.0f}) {
          std::vector<float> x(3 * k, 127 * sign);
          // The last row: all of a block but one far below its largest, so that
          // it is wide, and low halves of -128.
          for (int64_t c = 0; c < k; ++c) {
            x[2 * k + c] = sign * static_cast<float>(c % 32 == 0 ? 32512 : 128);
          }
          const std::vector<float> y = MultiplyByPanel(x, 3, w);
          for (int64_t i = 0; i < 3; ++i) {
            const int64_t sum = i < 2 ? 127 * k : (32512 + 31 * 128) * (k / 32);
            for (int64_t j = 0; j < w.n; ++j) {
              const int64_t want = sum * largest * (j % 2 == 1 ? -1 : 1);
              ASSERT_EQ(y[i * w.n + j], sign * static_cast<float>(want))
                  << bits << " " << k << " " << i << " " << j;
            }
          }
        }
      }
    }
  });
}

TEST(QuantProductTest, WidensExactly) {
  ForEachTarget([] {
    for (const int bits : {2, 4, 8}) {
      for (const bool symmetric : {true, false}) {
        for (const int64_t k : {1, 31, 32, 65, 96, 128, 4096, 4160}) {
          const Weights w({bits, k % 32 == 0 ? 32 : 0, symmetric}, 3, k);
          std::vector<float> out(3 * k);
          QuantProduct::Get().widen(w.packed.data(), w.format, k, 3,
                                    out.data());
          EXPECT_EQ(out, w.numbers) << ToText(w.format) << " " << k;
        }
      }
    }
  });
}

TEST(QuantProductTest, MakesNoNumberOfANaN) {
  const Weights w({4, 32, true}, 2, 64);
  for (const float bad : {std::numeric_limits<float>::quiet_NaN(),
                          std::numeric_limits<float>::infinity()}) {
    std::vector<float> x = Rows(1, 64, false);
    x[40] = bad;
    for (const float y : Multiply(x, 1, w, nullptr)) {
      EXPECT_FALSE(std::isfinite(y));
    }
  }
}

TEST(QuantProductTest, CountsTheWidthsThatItChose) {
  const ActivationWidths before = CountActivationWidths();
  const Weights w({4, 32, true}, 2, 64);
  Multiply(Rows(3, 64, false), 3, w, nullptr);
  Multiply(Rows(2, 64, true), 2, w, nullptr);
  const ActivationWidths after = CountActivationWidths();
  EXPECT_EQ(after.rows_of_8_bits - before.rows_of_8_bits, 3);
  EXPECT_EQ(after.rows_of_16_bits - before.rows_of_16_bits, 2);
}

}  // namespace
}  // namespace strata
