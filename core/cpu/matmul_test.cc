#include "core/cpu/matmul.h"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "core/cpu/elementwise.h"
#include "core/graph/builder.h"
#include "core/ops/matmul.h"
#include "core/tensor/bfloat16.h"
#include "core/tensor/dtype.h"
#include "core/testing/grad_check.h"
#include "core/testing/graph_run.h"
#include "core/testing/status_matchers.h"
#include "gtest/gtest.h"

namespace strata {
namespace {

struct Case {
  int64_t m, n, k;
};

// Rows where products by dots end (8, or 1200 elements of the result), and both
// sides of a tile of the result (256 x 512, and less when there are few).
constexpr Case kCases[] = {{1, 1, 1},      {1, 700, 33},    {8, 170, 65},
                           {9, 170, 65},   {70, 17, 65},    {71, 17, 65},
                           {3, 33000, 2},  {63, 65, 64},    {256, 512, 40},
                           {257, 513, 40}, {300, 200, 500}, {520, 96, 300}};

std::vector<double> Plain(const Case& c, bool transpose_a, bool transpose_b,
                          const std::vector<double>& a,
                          const std::vector<double>& b) {
  std::vector<double> out(c.m * c.n);
  for (int64_t i = 0; i < c.m; ++i) {
    for (int64_t p = 0; p < c.k; ++p) {
      const double x = a[transpose_a ? p * c.m + i : i * c.k + p];
      for (int64_t j = 0; j < c.n; ++j) {
        out[i * c.n + j] += x * b[transpose_b ? j * c.k + p : p * c.n + j];
      }
    }
  }
  return out;
}

absl::StatusOr<RunResult> Multiply(DType dtype, int num_threads, const Case& c,
                                   bool transpose_a, bool transpose_b,
                                   const std::vector<double>& a,
                                   const std::vector<double>& b) {
  return RunGraph(
      dtype, num_threads, {RegisterMatMulKernels},
      [&](GraphBuilder& g) {
        const Dim m = Static(c.m), n = Static(c.n), k = Static(c.k);
        const ValueId x =
            g.Parameter("a", transpose_a ? Dims{k, m} : Dims{m, k});
        const ValueId y =
            g.Parameter("b", transpose_b ? Dims{n, k} : Dims{k, n});
        g.Output("c", MatMul(g, x, y, transpose_a, transpose_b));
      },
      [&](const std::string& name, const TensorView& view) {
        Copy(name == "a" ? a : b, view);
      });
}

TEST(MatMulTest, MultipliesLikeAPlainLoopWithAnyTransposition) {
  for (const Case& c : kCases) {
    const std::vector<double> a = Normal(c.m * c.k, 1),
                              b = Normal(c.k * c.n, 2);
    for (const bool transpose_a : {false, true}) {
      for (const bool transpose_b : {false, true}) {
        SCOPED_TRACE(testing::Message() << c.m << " " << c.n << " " << c.k
                                        << " " << transpose_a << transpose_b);
        const std::vector<double> want =
            Plain(c, transpose_a, transpose_b, a, b);
        for (const DType dtype : {DType::kF32, DType::kF64}) {
          const auto result =
              Multiply(dtype, 2, c, transpose_a, transpose_b, a, b);
          ASSERT_THAT(result, IsOk());
          // k products of size about 1 are rounded once each, then summed.
          const double tolerance =
              (dtype == DType::kF32 ? 6e-7 : 1e-15) * (c.k + 8);
          const std::vector<double>& got = result->at("c");
          ASSERT_EQ(got.size(), want.size());
          double worst = 0;
          for (size_t i = 0; i < want.size(); ++i) {
            worst = std::max(worst, std::abs(got[i] - want[i]));
          }
          EXPECT_LE(worst, tolerance);
        }
      }
    }
  }
}

TEST(MatMulTest, RepeatsBitForBitOnAnyNumberOfThreads) {
  for (const Case& c : {Case{300, 200, 500}, Case{2, 900, 100}}) {
    const std::vector<double> a = Normal(c.m * c.k, 1),
                              b = Normal(c.k * c.n, 2);
    const auto one = Multiply(DType::kF32, 1, c, false, true, a, b);
    ASSERT_THAT(one, IsOk());
    for (const int num_threads : {2, 3}) {
      const auto more =
          Multiply(DType::kF32, num_threads, c, false, true, a, b);
      ASSERT_THAT(more, IsOk());
      EXPECT_EQ(one->at("c"), more->at("c"));
    }
  }
}

// A row of x w^T in a batch of `some` rows is what it is among 300; or among 8,
// for batches of no more, which are products by dots.
TEST(MatMulTest, RowsDoNotDependOnTheirBatch) {
  if (!__builtin_cpu_supports("avx512vl") ||
      !__builtin_cpu_supports("avx512bw")) {
    GTEST_SKIP() << "elsewhere OpenBLAS rounds a product's last rows otherwise";
  }
  for (const Case& c :
       {Case{300, 160, 384}, Case{300, 520, 33}, Case{300, 128, 64},
        Case{300, 1540, 500}, Case{8, 300, 500}}) {
    const std::vector<double> a = Normal(c.m * c.k, 1),
                              b = Normal(c.k * c.n, 2);
    const auto all = Multiply(DType::kF32, 2, c, false, true, a, b);
    ASSERT_THAT(all, IsOk());
    for (const int64_t some : {1, 7, 9, 17, 64, 129, 299}) {
      const bool by_dots = some <= 8 || some * c.n <= 1200;
      if (some > c.m || by_dots != (c.m <= 8)) continue;
      const int64_t first = c.m - some;
      const std::vector<double> last(a.begin() + first * c.k, a.end());
      const auto part =
          Multiply(DType::kF32, 2, {some, c.n, c.k}, false, true, last, b);
      ASSERT_THAT(part, IsOk());
      EXPECT_TRUE(std::equal(part->at("c").begin(), part->at("c").end(),
                             all->at("c").begin() + first * c.n))
          << some << " of " << c.m << " rows, n " << c.n << " k " << c.k;
    }
  }
}

absl::StatusOr<RunResult> MultiplyNarrow(int num_threads, const Case& c,
                                         const std::vector<double>& a,
                                         const std::vector<double>& b) {
  return RunGraph(
      DType::kF32, num_threads, {RegisterMatMulKernels},
      [&](GraphBuilder& g) {
        const ValueId x = g.Input("a", DType::kF32, {Static(c.m), Static(c.k)});
        const ValueId w =
            g.Input("b", DType::kBF16, {Static(c.n), Static(c.k)});
        g.Output("c", Linear(g, x, w));
      },
      [&](const std::string& name, const TensorView& view) {
        if (name == "a") return Copy(a, view);
        std::transform(b.begin(), b.end(), view.as<BFloat16>(),
                       RoundToBFloat16);
      });
}

std::vector<double> RoundedToBFloat16(std::vector<double> values) {
  for (double& x : values) x = Widen(RoundToBFloat16(x));
  return values;
}

// Rows where dots end (16, or 1200 elements), pieces of work by dots (65536
// elements of w), and tiles beyond.
TEST(MatMulTest, MultipliesByBFloat16LikeAPlainLoopOverTheSameValues) {
  for (const Case& c :
       {Case{1, 1, 1}, Case{0, 3, 5}, Case{2, 3, 0}, Case{20, 70, 0},
        Case{1, 700, 33}, Case{1, 64, 1024}, Case{1, 65, 1024},
        Case{3, 33000, 2}, Case{16, 170, 65}, Case{17, 170, 65},
        Case{17, 70, 65}, Case{17, 71, 65}, Case{70, 17, 65}, Case{71, 17, 65},
        Case{257, 513, 40}, Case{300, 200, 500}}) {
    SCOPED_TRACE(testing::Message() << c.m << " " << c.n << " " << c.k);
    const std::vector<double> a = Normal(c.m * c.k, 1);
    const std::vector<double> b = RoundedToBFloat16(Normal(c.k * c.n, 2));
    const std::vector<double> want = Plain(c, false, true, a, b);
    const auto result = MultiplyNarrow(2, c, a, b);
    ASSERT_THAT(result, IsOk());
    const std::vector<double>& got = result->at("c");
    ASSERT_EQ(got.size(), want.size());
    double worst = 0;
    for (size_t i = 0; i < want.size(); ++i) {
      worst = std::max(worst, std::abs(got[i] - want[i]));
    }
    // As for float: the weights are what they are.
    EXPECT_LE(worst, 6e-7 * (c.k + 8));
    const auto alone = MultiplyNarrow(1, c, a, b);
    ASSERT_THAT(alone, IsOk());
    EXPECT_EQ(alone->at("c"), got) << "another number of threads";
  }
}

TEST(MatMulTest, RowsByBFloat16AreTheSameInBatchesOfUpTo16) {
  const Case c = {16, 300, 500};
  const std::vector<double> a = Normal(c.m * c.k, 1), b = Normal(c.k * c.n, 2);
  const auto all = MultiplyNarrow(2, c, a, b);
  ASSERT_THAT(all, IsOk());
  for (const int64_t some : {1, 2, 3, 5, 15}) {
    const int64_t first = c.m - some;
    const auto part = MultiplyNarrow(2, {some, c.n, c.k},
                                     {a.begin() + first * c.k, a.end()}, b);
    ASSERT_THAT(part, IsOk());
    EXPECT_TRUE(std::equal(part->at("c").begin(), part->at("c").end(),
                           all->at("c").begin() + first * c.n))
        << some;
  }
}

// A ragged extent is summed over, or makes rows, only up to its count.
TEST(MatMulTest, ReadsOnlyTheRowsThatCount) {
  constexpr int64_t kBound = 70, kIn = 20, kOut = 30;
  for (const int count : {0, 1, 5, 70}) {
    SCOPED_TRACE(count);
    std::vector<double> x = Normal(kBound * kIn, 1),
                        dy = Normal(kBound * kOut, 2);
    std::fill(x.begin() + count * kIn, x.end(), NAN);
    std::fill(dy.begin() + count * kOut, dy.end(), NAN);
    const std::vector<double> w = Normal(kOut * kIn, 3);

    const auto result = RunGraph(
        DType::kF64, 2, {RegisterMatMulKernels},
        [&](GraphBuilder& g) {
          const ValueId n = g.Input("n", DType::kI32, {});
          const ValueId xs =
              g.Input("x", DType::kF64, {Ragged(kBound, n), Static(kIn)});
          const ValueId dys =
              g.Input("dy", DType::kF64, {Ragged(kBound, n), Static(kOut)});
          const ValueId ws = g.Parameter("w", {Static(kOut), Static(kIn)});
          g.Output("y", Linear(g, xs, ws));
          g.Output("dw", MatMul(g, dys, xs, /*transpose_lhs=*/true));
        },
        [&](const std::string& name, const TensorView& view) {
          if (name == "n") Copy({static_cast<double>(count)}, view);
          if (name == "x") Copy(x, view);
          if (name == "dy") Copy(dy, view);
          if (name == "w") Copy(w, view);
        });

    ASSERT_THAT(result, IsOk());
    const std::vector<double> y = Plain({count, kOut, kIn}, false, true, x, w);
    const std::vector<double> dw =
        Plain({kOut, kIn, count}, true, false, dy, x);
    ASSERT_EQ(result->at("y").size(), y.size());
    for (size_t i = 0; i < y.size(); ++i) {
      EXPECT_NEAR(result->at("y")[i], y[i], 1e-13);
    }
    for (size_t i = 0; i < dw.size(); ++i) {
      EXPECT_NEAR(result->at("dw")[i], dw[i], 1e-13);
    }
  }
}

TEST(MatMulTest, GradientsMatchDifferences) {
  for (const bool transpose_a : {false, true}) {
    for (const bool transpose_b : {false, true}) {
      EXPECT_THAT(CheckGradients(
                      [&](GraphBuilder& b) -> std::vector<ValueId> {
                        const Dim m = Static(7), n = Static(5), k = Static(6);
                        const ValueId x =
                            b.Input("x", DType::kF64,
                                    transpose_a ? Dims{k, m} : Dims{m, k});
                        const ValueId w = b.Parameter(
                            "w", transpose_b ? Dims{n, k} : Dims{k, n});
                        return {MatMul(b, x, w, transpose_a, transpose_b)};
                      },
                      {RegisterMatMulKernels, RegisterElementwiseKernels}),
                  IsOk());
    }
  }
}

}  // namespace
}  // namespace strata
