#include "core/cpu/row_products.h"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <random>
#include <vector>

#include "core/tensor/bfloat16.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace strata {
namespace {

using ::testing::Types;

template <typename T>
std::vector<T> Normal(int64_t n, int seed) {
  std::mt19937 rng(seed);
  std::normal_distribution<T> normal;
  std::vector<T> x(n);
  for (T& v : x) v = normal(rng);
  return x;
}

template <typename T>
class RowProductsTest : public testing::Test {};
using Floats = Types<float, double>;
TYPED_TEST_SUITE(RowProductsTest, Floats);

// Rows on both sides of a tile (4), columns of a tile of dots (4) and of one
// and two vectors (16 floats at most), and k of a vector.
constexpr int64_t kSizes[] = {1, 3, 4, 5, 15, 16, 17, 31, 32, 33, 50};

TYPED_TEST(RowProductsTest, AgreesWithALoopAndRowByRowBitForBit) {
  using T = TypeParam;
  const RowProducts<T>& products = RowProducts<T>::Get();
  for (const int64_t m : {1, 2, 3, 4, 5, 7, 9}) {
    for (const int64_t n : kSizes) {
      for (const int64_t k : kSizes) {
        const int64_t lda = k + 3, ldc = n + 2;
        const std::vector<T> a = Normal<T>(m * lda, 1);
        const std::vector<T> b = Normal<T>(n * k, 2);  // Either way round.
        for (const bool dots : {true, false}) {
          RowProductArgs<T> g;
          g.m = m, g.n = n, g.k = k;
          g.a = a.data(), g.lda = lda;
          g.b = b.data(), g.ldb = dots ? k : n;
          std::vector<T> c(m * ldc, T{7}), alone = c;
          g.c = c.data(), g.ldc = ldc;
          const auto run = dots ? products.by_dots : products.by_sums;
          run(g);
          for (int64_t i = 0; i < m; ++i) {
            RowProductArgs<T> one = g;
            one.m = 1;
            one.a = a.data() + i * lda;
            one.c = alone.data() + i * ldc;
            run(one);
          }
          EXPECT_EQ(c, alone) << m << " " << n << " " << k;
          // k roundings of sums whose terms have a mean size of 1.
          const double tolerance =
              4 * k * (sizeof(T) == 4 ? 6e-8 : 2e-16) * std::sqrt(k);
          for (int64_t i = 0; i < m; ++i) {
            for (int64_t j = 0; j < n; ++j) {
              double want = 0;
              for (int64_t l = 0; l < k; ++l) {
                want += static_cast<double>(a[i * lda + l]) *
                        b[dots ? j * k + l : l * n + j];
              }
              ASSERT_NEAR(c[i * ldc + j], want, tolerance);
            }
            EXPECT_EQ(c[i * ldc + n], T{7}) << "wrote behind a row";
          }
        }
      }
    }
  }
}

TYPED_TEST(RowProductsTest, ASumInPartsIsTheSumAtOnce) {
  using T = TypeParam;
  constexpr int64_t kRows = 6, kK = 40, kColumns = 21;
  const std::vector<T> a = Normal<T>(kRows * kK, 1);
  const std::vector<T> b = Normal<T>(kK * kColumns, 2);
  std::vector<T> whole(kRows * kColumns), parts = whole;
  RowProductArgs<T> g;
  g.m = kRows, g.n = kColumns, g.k = kK;
  g.a = a.data(), g.lda = kK;
  g.b = b.data(), g.ldb = kColumns;
  g.c = whole.data(), g.ldc = kColumns;

  RowProducts<T>::Get().by_sums(g);
  g.c = parts.data();
  for (const int64_t first : {0, 16, 32}) {
    g.k = std::min<int64_t>(16, kK - first);
    g.a = a.data() + first;
    g.b = b.data() + first * kColumns;
    g.add = first > 0;
    RowProducts<T>::Get().by_sums(g);
  }

  EXPECT_EQ(parts, whole);
}

// A column of by_dots may be the last of a tile or not: attention's scores are
// made a block of keys at a time.
TYPED_TEST(RowProductsTest, ADotDoesNotDependOnTheOtherColumns) {
  using T = TypeParam;
  constexpr int64_t kColumns = 13, kK = 37;
  const std::vector<T> a = Normal<T>(kK, 1);
  const std::vector<T> b = Normal<T>(kColumns * kK, 2);
  std::vector<T> all(kColumns);
  RowProductArgs<T> g;
  g.m = 1, g.n = kColumns, g.k = kK;
  g.a = a.data(), g.lda = kK;
  g.b = b.data(), g.ldb = kK;
  g.c = all.data(), g.ldc = kColumns;
  RowProducts<T>::Get().by_dots(g);

  for (int64_t n = 1; n < kColumns; ++n) {
    std::vector<T> some(n);
    g.n = n;
    g.c = some.data();
    RowProducts<T>::Get().by_dots(g);
    EXPECT_EQ(some, std::vector<T>(all.begin(), all.begin() + n));
  }
}

TEST(NarrowRowProductsTest, AreProductsByTheWidenedWeightsBitForBit) {
  for (const int64_t m : {1, 2, 3, 4, 5, 7, 9}) {
    for (const int64_t n : kSizes) {
      for (const int64_t k : kSizes) {
        const std::vector<float> a = Normal<float>(m * k, 1);
        std::vector<float> wide = Normal<float>(n * k, 2);
        std::vector<BFloat16> narrow;
        for (float& x : wide) {
          narrow.push_back(RoundToBFloat16(x));
          x = Widen(narrow.back());
        }
        std::vector<float> want(m * n), got = want;
        RowProductArgs<float> g;
        g.m = m, g.n = n, g.k = g.lda = g.ldb = k;
        g.a = a.data(), g.b = wide.data(), g.c = want.data(), g.ldc = n;
        RowProducts<float>::Get().by_dots(g);
        RowProductArgs<float, BFloat16> h;
        h.m = m, h.n = n, h.k = h.lda = h.ldb = k;
        h.a = a.data(), h.b = narrow.data(), h.c = got.data(), h.ldc = n;
        NarrowRowProducts::Get().by_dots(h);
        EXPECT_EQ(got, want) << m << " " << n << " " << k;
      }
    }
  }
}

}  // namespace
}  // namespace strata
