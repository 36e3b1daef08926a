#include "core/cpu/bf16_product.h"

#include <cmath>
#include <cstdint>
#include <memory>
#include <vector>

#include "core/base/random.h"
#include "core/tensor/bfloat16.h"
#include "gtest/gtest.h"

namespace strata {
namespace {

// In blocks of exactly their size, so that a sanitizer sees reads beyond.
struct Operands {
  Operands(int64_t m, int64_t n, int64_t k)
      : x(new float[m * k]), w(new BFloat16[n * k]) {
    Random random(/*seed=*/m * 1000 + n, /*stream=*/k);
    for (int64_t i = 0; i < m * k; ++i) x[i] = random.Normal();
    for (int64_t i = 0; i < n * k; ++i) w[i] = RoundToBFloat16(random.Normal());
  }
  std::unique_ptr<float[]> x;
  std::unique_ptr<BFloat16[]> w;
};

// Both sides of: a vector (4, 8 and 16 lanes), four of them, and blocks of 2
// and 4 rows of x.
constexpr int64_t kRows[] = {1, 2, 3, 4, 5, 8, 9, 16, 17};
constexpr int64_t kColumns[] = {1, 2, 7};
constexpr int64_t kInner[] = {1,  2,  3,  4,  5,  7,   8,   9,
                              15, 16, 17, 31, 32, 33,  48,  63,
                              64, 65, 79, 80, 81, 128, 129, 384};

TEST(Bf16ProductTest, MultipliesLikeAPlainLoopOverTheSameValues) {
  for (const int64_t m : kRows) {
    for (const int64_t n : kColumns) {
      for (const int64_t k : kInner) {
        SCOPED_TRACE(testing::Message() << m << " " << n << " " << k);
        const Operands in(m, n, k);
        const int64_t ldy = n + 3;
        std::vector<float> y(m * ldy, 7);
        Bf16Product::Get().dots(in.x.get(), m, in.w.get(), n, k, y.data(), ldy);
        for (int64_t i = 0; i < m; ++i) {
          for (int64_t j = 0; j < ldy; ++j) {
            if (j >= n) {
              ASSERT_EQ(y[i * ldy + j], 7) << "written beyond the row";
              continue;
            }
            float sum = 0;
            double magnitude = 0;
            for (int64_t p = 0; p < k; ++p) {
              const float term = in.x[i * k + p] * Widen(in.w[j * k + p]);
              sum += term;
              magnitude += std::abs(term);
            }
            // Both sums round at most k + 1 times, each by 2^-24 of at most
            // the sum of magnitudes.
            ASSERT_NEAR(y[i * ldy + j], sum,
                        2 * (k + 1) * std::ldexp(magnitude, -24))
                << i << " " << j;
          }
        }
      }
    }
  }
}

TEST(Bf16ProductTest, GivesTheSameBitsWhateverSharesTheBatch) {
  constexpr int64_t kM = 16, kN = 9, kK = 391;
  const Operands in(kM, kN, kK);
  std::vector<float> all(kM * kN);
  Bf16Product::Get().dots(in.x.get(), kM, in.w.get(), kN, kK, all.data(), kN);
  for (int64_t m = 1; m < kM; ++m) {
    for (int64_t n = 1; n <= kN; ++n) {
      std::vector<float> some(m * n);
      Bf16Product::Get().dots(in.x.get() + (kM - m) * kK, m,
                              in.w.get() + (kN - n) * kK, n, kK, some.data(),
                              n);
      for (int64_t i = 0; i < m; ++i) {
        for (int64_t j = 0; j < n; ++j) {
          ASSERT_EQ(some[i * n + j], all[(kM - m + i) * kN + kN - n + j])
              << m << " " << n << " " << i << " " << j;
        }
      }
    }
  }
}

TEST(Bf16ProductTest, GivesZerosWhereThereIsNothingToAddUp) {
  std::vector<float> y(6, 7);
  Bf16Product::Get().dots(nullptr, 2, nullptr, 3, 0, y.data(), 3);
  EXPECT_EQ(y, std::vector<float>(6));
}

TEST(Bf16ProductTest, WidensEveryValueExactly) {
  for (const int64_t n : {1, 7, 8, 9, 15, 16, 17, 65536}) {
    const auto x = std::make_unique<BFloat16[]>(n);
    const auto out = std::make_unique<float[]>(n);
    for (int64_t i = 0; i < n; ++i) x[i].bits = static_cast<uint16_t>(i * 977);
    Bf16Product::Get().widen(x.get(), n, out.get());
    for (int64_t i = 0; i < n; ++i) {
      const float want = Widen(x[i]);
      ASSERT_TRUE(out[i] == want || (std::isnan(out[i]) && std::isnan(want)))
          << i;
    }
  }
}

TEST(BFloat16Test, RoundsToTheNearestAndTiesToEven) {
  EXPECT_EQ(RoundToBFloat16(1).bits, 0x3F80);
  EXPECT_EQ(RoundToBFloat16(1 + std::ldexp(1.0f, -8)).bits, 0x3F80);
  EXPECT_EQ(RoundToBFloat16(1 + std::ldexp(1.5f, -8)).bits, 0x3F81);
  EXPECT_EQ(RoundToBFloat16(1 + std::ldexp(3.0f, -8)).bits, 0x3F82);
  EXPECT_EQ(RoundToBFloat16(-0.0f).bits, 0x8000);
  for (int i = 0; i < 65536; ++i) {
    const BFloat16 x = {static_cast<uint16_t>(i)};
    EXPECT_EQ(IsFinite(x), std::isfinite(Widen(x)));
    if (!std::isnan(Widen(x))) EXPECT_EQ(RoundToBFloat16(Widen(x)).bits, i);
  }
}

}  // namespace
}  // namespace strata
