#include "core/cpu/vector_math.h"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <functional>
#include <limits>
#include <numeric>
#include <random>
#include <vector>

#include "core/testing/highway_targets.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "hwy/targets.h"

namespace strata {
namespace {

using ::testing::ElementsAre;

// Both sides of every width (2 to 16 lanes) and of the fourfold unrolling.
constexpr int64_t kSizes[] = {0,  1,  2,  3,  4,  5,  7,  8,   9,   15,
                              16, 17, 31, 33, 63, 64, 65, 129, 1000};

template <typename T>
std::vector<T> Random(int64_t n, uint32_t seed) {
  std::mt19937 rng(seed);
  std::normal_distribution<double> normal(0, 2);
  std::vector<T> x(n);
  for (T& v : x) v = static_cast<T>(normal(rng));
  return x;
}

// Calls `body` with every instruction set that this processor has.
void ForEachTarget(const std::function<void()>& body) {
  strata::ForEachTarget({HWY_EMU128, HWY_AVX2, HWY_AVX3}, body);
}

double Sigmoid(double x) { return 1 / (1 + std::exp(-x)); }
double SiluSlope(double x) { return Sigmoid(x) * (1 + x * (1 - Sigmoid(x))); }

template <typename T>
class VectorMathTest : public ::testing::Test {
 protected:
  // Relative to 1 + |want|: a dozen roundings of single operations.
  static constexpr double kTolerance = 12 * std::numeric_limits<T>::epsilon();

  void ExpectNear(double got, double want, double scale = 1) {
    EXPECT_NEAR(got, want, kTolerance * (scale + std::abs(want)));
  }

  // Checks that y[i] = want(i) and that the element behind y is left alone.
  void CheckMap(const std::function<void(const VectorMath<T>&, T* y)>& map,
                int64_t n, const std::vector<T>& initial,
                const std::function<double(int64_t)>& want) {
    std::vector<T> y = initial;
    y.push_back(T{77});
    map(VectorMath<T>::Get(), y.data());
    for (int64_t i = 0; i < n; ++i) {
      SCOPED_TRACE(i);
      ExpectNear(y[i], want(i), 4);
    }
    EXPECT_EQ(y[n], T{77}) << "wrote behind the array of " << n;
  }
};

using Types = ::testing::Types<float, double>;
TYPED_TEST_SUITE(VectorMathTest, Types);

TYPED_TEST(VectorMathTest, AddsUpLikeAPlainLoop) {
  using T = TypeParam;
  ForEachTarget([&] {
    const VectorMath<T>& vec = VectorMath<T>::Get();
    for (const int64_t n : kSizes) {
      const std::vector<T> x = Random<T>(n, 1), y = Random<T>(n, 2),
                           z = Random<T>(n, 3);
      double sum = 0, dot = 0, dot3 = 0, squares = 0, exps = 0;
      double max = -std::numeric_limits<double>::infinity();
      for (int64_t i = 0; i < n; ++i) {
        sum += x[i];
        dot += double{x[i]} * y[i];
        dot3 += double{x[i]} * y[i] * z[i];
        squares += double{x[i]} * x[i];
        exps += std::exp(0.5 * x[i] - 2.0);
        max = std::max(max, double{x[i]});
      }
      // Errors of a sum grow with the sum of the magnitudes.
      const double scale = 1 + 4.0 * n;
      this->ExpectNear(vec.sum(x.data(), n), sum, scale);
      this->ExpectNear(vec.dot(x.data(), y.data(), n), dot, scale);
      this->ExpectNear(vec.dot3(x.data(), y.data(), z.data(), n), dot3,
                       2 * scale);
      this->ExpectNear(vec.sum_of_squares(x.data(), n), squares, scale);
      EXPECT_NEAR(vec.sum_of_squares_in_double(x.data(), n), squares,
                  1e-12 * squares);
      this->ExpectNear(vec.sum_exp(x.data(), T(0.5), T(2), n), exps, scale);
      EXPECT_EQ(vec.max(x.data(), n), max);
    }
  });
}

TYPED_TEST(VectorMathTest, MapsLikeAPlainLoop) {
  using T = TypeParam;
  using Vec = VectorMath<T>;
  ForEachTarget([&] {
    for (const int64_t n : kSizes) {
      SCOPED_TRACE(n);
      const std::vector<T> x = Random<T>(n, 1), y = Random<T>(n, 2),
                           z = Random<T>(n, 3);
      const auto d = [](T v) { return static_cast<double>(v); };
      this->CheckMap(
          [&](const Vec& vec, T* out) { vec.add(x.data(), y.data(), n, out); },
          n, z, [&](int64_t i) { return d(x[i]) + y[i]; });
      this->CheckMap(
          [&](const Vec& vec, T* out) { vec.scale(3, x.data(), n, out); }, n, z,
          [&](int64_t i) { return 3 * d(x[i]); });
      this->CheckMap(
          [&](const Vec& vec, T* out) { vec.axpy(3, x.data(), n, out); }, n, z,
          [&](int64_t i) { return 3 * d(x[i]) + z[i]; });
      this->CheckMap(
          [&](const Vec& vec, T* out) { vec.axpby(3, x.data(), 2, n, out); }, n,
          z, [&](int64_t i) { return 3 * d(x[i]) + 2 * d(z[i]); });
      this->CheckMap(
          [&](const Vec& vec, T* out) {
            vec.product(3, x.data(), y.data(), n, out);
          },
          n, z, [&](int64_t i) { return 3 * d(x[i]) * y[i]; });
      this->CheckMap(
          [&](const Vec& vec, T* out) {
            vec.add_product(3, x.data(), y.data(), n, out);
          },
          n, z, [&](int64_t i) { return 3 * d(x[i]) * y[i] + z[i]; });
      this->CheckMap(
          [&](const Vec& vec, T* out) {
            vec.product_plus(3, x.data(), y.data(), 2, out, n, out);
          },
          n, z, [&](int64_t i) { return 3 * d(x[i]) * y[i] + 2 * d(z[i]); });
    }
  });
}

TYPED_TEST(VectorMathTest, ActivatesLikeAPlainLoop) {
  using T = TypeParam;
  using Vec = VectorMath<T>;
  ForEachTarget([&] {
    for (const int64_t n : kSizes) {
      SCOPED_TRACE(n);
      const std::vector<T> x = Random<T>(n, 1), y = Random<T>(n, 2),
                           z = Random<T>(n, 3);
      const auto d = [](T v) { return static_cast<double>(v); };
      this->CheckMap(
          [&](const Vec& vec, T* out) { vec.exp(x.data(), 1, 2, 3, n, out); },
          n, z, [&](int64_t i) { return 3 * std::exp(d(x[i]) - 2); });
      this->CheckMap(
          [&](const Vec& vec, T* out) { vec.sigmoid(x.data(), n, out); }, n, z,
          [&](int64_t i) { return Sigmoid(x[i]); });
      this->CheckMap(
          [&](const Vec& vec, T* out) {
            vec.sigmoid_grad(x.data(), y.data(), n, out);
          },
          n, z, [&](int64_t i) { return d(x[i]) * y[i] * (1 - d(y[i])); });
      this->CheckMap(
          [&](const Vec& vec, T* out) { vec.silu(x.data(), n, out); }, n, z,
          [&](int64_t i) { return x[i] * Sigmoid(x[i]); });
      this->CheckMap([&](const Vec& vec,
                         T* out) { vec.silu_grad(y.data(), x.data(), n, out); },
                     n, z, [&](int64_t i) { return y[i] * SiluSlope(x[i]); });
      this->CheckMap([&](const Vec& vec,
                         T* out) { vec.swiglu(x.data(), y.data(), n, out); },
                     n, z,
                     [&](int64_t i) { return x[i] * Sigmoid(x[i]) * y[i]; });
      std::vector<T> other(n);
      this->CheckMap(
          [&](const Vec& vec, T* out) {
            vec.swiglu_grad(z.data(), x.data(), y.data(), n, out, other.data());
          },
          n, z, [&](int64_t i) { return d(z[i]) * y[i] * SiluSlope(x[i]); });
      this->CheckMap(
          [&](const Vec& vec, T* out) {
            vec.swiglu_grad(z.data(), x.data(), y.data(), n, other.data(), out);
          },
          n, z, [&](int64_t i) { return z[i] * x[i] * Sigmoid(x[i]); });
    }
  });
}

TYPED_TEST(VectorMathTest, SoftmaxSumsToOneAndReturnsTheLogOfItsSum) {
  using T = TypeParam;
  ForEachTarget([&] {
    for (const int64_t n : kSizes) {
      if (n == 0) continue;
      SCOPED_TRACE(n);
      std::vector<T> x = Random<T>(n, 1);
      for (T& v : x) v += 300;  // Where exp(x) would overflow.
      double sum = 0;
      for (const T v : x) sum += std::exp(0.5 * (v - 300.0));
      std::vector<T> y(n + 1, T{77});

      const T lse = VectorMath<T>::Get().softmax(x.data(), T(0.5), n, y.data());

      // The scaled values, about 150, carry their own rounding into y.
      const double tolerance = 160 * std::numeric_limits<T>::epsilon();
      EXPECT_NEAR(lse, std::log(sum) + 150, 2 * tolerance);
      for (int64_t i = 0; i < n; ++i) {
        EXPECT_NEAR(y[i], std::exp(0.5 * (x[i] - 300.0)) / sum, tolerance);
      }
      EXPECT_EQ(y[n], T{77});
    }
  });
}

TYPED_TEST(VectorMathTest, SoftmaxGradSubtractsTheMean) {
  using T = TypeParam;
  const std::vector<T> dy = {1, 2, 3}, y = {T(0.5), T(0.25), T(0.25)};
  std::vector<T> dx(3);
  const T delta = VectorMath<T>::Get().dot(dy.data(), y.data(), 3);  // 1.75

  VectorMath<T>::Get().softmax_grad(dy.data(), y.data(), delta, 2, 3,
                                    dx.data());

  EXPECT_THAT(dx, ElementsAre(T(-0.75), T(0.125), T(0.625)));
}

TYPED_TEST(VectorMathTest, KeepsInfinitiesAndNan) {
  using T = TypeParam;
  const T inf = std::numeric_limits<T>::infinity();
  const T nan = std::numeric_limits<T>::quiet_NaN();
  ForEachTarget([&] {
    const VectorMath<T>& vec = VectorMath<T>::Get();
    const std::vector<T> x = {-inf, T(-1e30), T(1e30), inf, nan};
    std::vector<T> y(5);

    vec.exp(x.data(), 1, 0, 1, 5, y.data());
    EXPECT_THAT(y, ElementsAre(0, 0, inf, inf, ::testing::IsNan()));
    vec.sigmoid(x.data(), 5, y.data());
    EXPECT_THAT(y, ElementsAre(0, 0, 1, 1, ::testing::IsNan()));

    const std::vector<T> none = {-inf, -inf, -inf};
    std::vector<T> zero(3, T{5});
    EXPECT_EQ(vec.softmax(none.data(), 1, 3, zero.data()), -inf);
    EXPECT_THAT(zero, ElementsAre(0, 0, 0));

    const std::vector<T> bad = {1, nan, 3};
    std::vector<T> p(3);
    vec.softmax(bad.data(), 1, 3, p.data());
    EXPECT_THAT(p, ::testing::Contains(::testing::IsNan()));
  });
}

TYPED_TEST(VectorMathTest, RotatesPairs) {
  using T = TypeParam;
  ForEachTarget([&] {
    for (const int64_t n : kSizes) {
      std::vector<T> low = Random<T>(n, 1), high = Random<T>(n, 2), cos, sin;
      for (const T angle : Random<T>(n, 3)) {
        cos.push_back(std::cos(angle));
        sin.push_back(std::sin(angle));
      }
      std::vector<T> want_low, want_high;
      for (int64_t i = 0; i < n; ++i) {
        want_low.push_back(low[i] * cos[i] - high[i] * sin[i]);
        want_high.push_back(low[i] * sin[i] + high[i] * cos[i]);
      }

      VectorMath<T>::Get().rotate(low.data(), high.data(), cos.data(),
                                  sin.data(), n, low.data(), high.data());

      for (int64_t i = 0; i < n; ++i) {
        this->ExpectNear(low[i], want_low[i], 8);
        this->ExpectNear(high[i], want_high[i], 8);
      }
    }
  });
}

TYPED_TEST(VectorMathTest, AdamWStepsLikeItsFormula) {
  using T = TypeParam;
  AdamWStep<T> step;
  step.grad_scale = T(0.5);
  step.beta1 = T(0.9);
  step.beta2 = T(0.95);
  step.m_scale = T(1 / (1 - 0.9));
  step.v_scale = T(1 / (1 - 0.95));
  step.eps = T(1e-3);
  step.lr = T(0.01);
  step.weight_decay = T(0.1);
  ForEachTarget([&] {
    for (const int64_t n : kSizes) {
      const std::vector<T> grad = Random<T>(n, 1), param = Random<T>(n, 2),
                           m = Random<T>(n, 3);
      std::vector<T> v = Random<T>(n, 4);
      for (T& x : v) x *= x;
      std::vector<T> new_param = param, new_m = m, new_v = v;

      VectorMath<T>::Get().adamw(step, grad.data(), n, new_param.data(),
                                 new_m.data(), new_v.data());

      for (int64_t i = 0; i < n; ++i) {
        const double g = 0.5 * grad[i];
        const double want_m = 0.9 * m[i] + 0.1 * g;
        const double want_v = 0.95 * v[i] + 0.05 * g * g;
        const double update =
            want_m / 0.1 / (std::sqrt(want_v / 0.05) + 1e-3) + 0.1 * param[i];
        this->ExpectNear(new_m[i], want_m, 4);
        this->ExpectNear(new_v[i], want_v, 4);
        this->ExpectNear(new_param[i], param[i] - 0.01 * update, 4);
      }
    }
  });
}

TYPED_TEST(VectorMathTest, RootShareIsZeroWhereSharesAreEven) {
  using T = TypeParam;
  ForEachTarget([&] {
    for (const int64_t n : kSizes) {
      std::vector<T> x = Random<T>(n, 1);
      T sum = 0;
      for (T& v : x) sum += v = std::abs(v);
      this->CheckMap(
          [&](const VectorMath<T>& vec, T* y) {
            vec.root_share(x.data(), sum, T{3}, n, y);
          },
          n, x,
          [&](int64_t i) {
            return 3 * (std::sqrt(static_cast<double>(n) * x[i] / sum) - 1);
          });
    }
  });
}

// Rows to sort: numbers of both signs; few different ones; one; and what is no
// number.
template <typename T>
std::vector<std::vector<T>> RowsToSort(int64_t n) {
  const T nan = std::numeric_limits<T>::quiet_NaN();
  const T inf = std::numeric_limits<T>::infinity();
  const std::vector<T> numbers = Random<T>(n, 3);
  std::vector<T> coarse = numbers, special = numbers;
  for (T& v : coarse) v = std::round(v) / 2;
  for (int64_t i = 0; i < n; ++i) {
    const T values[] = {nan, inf, -inf, T{0}, -T{0}, numbers[i]};
    special[i] = values[(i * 7) % 6];
  }
  return {numbers, coarse, std::vector<T>(n, T{0.5}), special};
}

// Places of x from the largest on; of equals the first, NaN last.
template <typename T>
std::vector<int64_t> Sorted(const std::vector<T>& x) {
  std::vector<int64_t> order(x.size());
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(), [&](int64_t i, int64_t j) {
    if (std::isnan(x[i])) return false;
    return std::isnan(x[j]) || x[i] > x[j];
  });
  return order;
}

TYPED_TEST(VectorMathTest, RanksAgreeWithSorting) {
  using T = TypeParam;
  using Int = typename VectorMath<T>::Int;
  ForEachTarget([&] {
    for (int64_t n = 0; n <= VectorMath<T>::kMaxRanked; ++n) {
      for (const std::vector<T>& x : RowsToSort<T>(n)) {
        const std::vector<int64_t> order = Sorted(x);
        std::vector<Int> want(n + 1, 0);
        for (int64_t j = 0; j < n; ++j) want[order[j]] = static_cast<Int>(j);
        want[n] = 77;
        std::vector<Int> rank(n + 1, 77);
        VectorMath<T>::Get().ranks(x.data(), n, rank.data());
        ASSERT_EQ(rank, want) << n;
      }
    }
  });
}

TYPED_TEST(VectorMathTest, KeepLargestAgreesWithSorting) {
  using T = TypeParam;
  ForEachTarget([&] {
    for (const int64_t n : kSizes) {
      for (const std::vector<T>& x : RowsToSort<T>(n)) {
        const std::vector<T> bias = Random<T>(n, 4);
        for (const std::vector<T>& b : {std::vector<T>(n, T{0}), bias}) {
          std::vector<T> sum(n);
          for (int64_t i = 0; i < n; ++i) sum[i] = x[i] + b[i];
          const std::vector<int64_t> order = Sorted(sum);
          for (const int64_t keep : {int64_t{1}, n / 2, n - 1, n}) {
            if (keep < 1 || keep > n) continue;
            std::vector<uint8_t> want(n + 1, 0);
            for (int64_t j = 0; j < keep; ++j) want[order[j]] = 1;
            want[n] = 77;
            std::vector<uint8_t> mask(n + 1, 77);
            std::vector<T> scratch(n);
            VectorMath<T>::Get().keep_largest(x.data(), b.data(), n, keep,
                                              scratch.data(), mask.data());
            ASSERT_EQ(mask, want) << keep << " of " << n;
          }
        }
      }
    }
  });
}

}  // namespace
}  // namespace strata
