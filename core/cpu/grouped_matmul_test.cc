#include "core/cpu/grouped_matmul.h"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <numeric>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "core/graph/builder.h"
#include "core/ops/grouped_matmul.h"
#include "core/tensor/bfloat16.h"
#include "core/tensor/dtype.h"
#include "core/testing/grad_check.h"
#include "core/testing/graph_run.h"
#include "core/testing/status_matchers.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace strata {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

template <typename T>
std::vector<T> RandomValues(int64_t n, int seed) {
  std::mt19937 rng(seed);
  std::normal_distribution<T> normal;
  std::vector<T> values(n);
  for (T& x : values) x = normal(rng);
  return values;
}

std::vector<int32_t> Offsets(const std::vector<int32_t>& rows_of_expert) {
  std::vector<int32_t> offset = {0};
  for (const int32_t rows : rows_of_expert) {
    offset.push_back(offset.back() + rows);
  }
  return offset;
}

// The three products of a layer w [E, n, k]: forward, its input gradient and
// its weight gradient.
struct Shape {
  int64_t max_rows, n, k;
};

void BuildProducts(GraphBuilder& b, const Shape& s, int64_t experts) {
  const ValueId rows = b.Input("rows", DType::kI32, {});
  const Dim r = Ragged(s.max_rows, rows);
  const DType dtype = b.compute();
  const ValueId x = b.Input("x", dtype, {r, Static(s.k)});
  const ValueId dy = b.Input("dy", dtype, {r, Static(s.n)});
  const ValueId w =
      b.Parameter("w", {Static(experts), Static(s.n), Static(s.k)});
  const ValueId offset = b.Input("offset", DType::kI32, {Static(experts + 1)});
  b.Output("y", GroupedMatMul(b, x, w, offset));
  b.Output("dx", GroupedMatMul(b, dy, w, offset, /*transpose_w=*/false));
  b.Output("dw", b.Add1(kGroupedWeightGrad, {dy, x, offset}));
}

template <typename T>
struct Products {
  std::vector<T> y, dx, dw;
};

template <typename T>
Products<T> RunProducts(const Shape& s, const std::vector<int32_t>& group,
                        const std::vector<T>& x, const std::vector<T>& dy,
                        const std::vector<T>& w, int num_threads = 2) {
  GraphRun run(
      [&](GraphBuilder& b) {
        BuildProducts(b, s, static_cast<int64_t>(group.size()));
      },
      {RegisterGroupedMatMulKernels}, {DTypeOf<T>(), num_threads});
  run.Set<int32_t>("offset", Offsets(group));
  run.Set<int32_t>("rows", {Offsets(group).back()});
  run.Set("x", x);
  run.Set("dy", dy);
  run.Set("w", w);
  EXPECT_THAT(run.Run(), IsOk());
  return {run.Get<T>("y"), run.Get<T>("dx"), run.Get<T>("dw")};
}

TEST(GroupedMatMulTest, MultipliesEachRowByItsExpertsMatrix) {
  // Expert 0 has one row, expert 1 none, expert 2 two; n = 1, k = 2.
  const Products<float> products = RunProducts<float>(
      {4, 1, 2}, {1, 0, 2}, /*x=*/{1, 2, 3, 4, 5, 6}, /*dy=*/{1, 10, 100},
      /*w=*/{1, 2, 3, 4, 5, 6});

  EXPECT_THAT(products.y, ElementsAre(1 + 4, 15 + 24, 25 + 36));
  EXPECT_THAT(products.dx, ElementsAre(1, 2, 50, 60, 500, 600));
  // Expert 2: 10 (3, 4) + 100 (5, 6).
  EXPECT_THAT(products.dw, ElementsAre(1, 2, 0, 0, 530, 640));
}

// Rows where dots end (16, or 1200 elements), columns where their tiles do
// (128) and those of Gemm (512); experts without rows between.
TEST(GroupedMatMulTest, MultipliesByBFloat16LikeAPlainLoopOverTheSameValues) {
  for (const Shape& s :
       {Shape{400, 1, 3}, Shape{400, 70, 33}, Shape{400, 71, 33},
        Shape{400, 128, 40}, Shape{400, 129, 40}, Shape{400, 513, 17}}) {
    for (const std::vector<int32_t>& group :
         {std::vector<int32_t>{1, 0, 1}, {0, 0, 0}, {16, 0, 17}, {3, 257, 1}}) {
      const auto experts = static_cast<int64_t>(group.size());
      const std::vector<int32_t> offset = Offsets(group);
      SCOPED_TRACE(testing::Message()
                   << s.n << " " << s.k << " " << offset.back());
      const std::vector<float> x = RandomValues<float>(offset.back() * s.k, 1);
      std::vector<BFloat16> w;
      for (const float value : RandomValues<float>(experts * s.n * s.k, 2)) {
        w.push_back(RoundToBFloat16(value));
      }
      std::vector<float> results[2];
      for (const int num_threads : {1, 2}) {
        GraphRun run(
            [&](GraphBuilder& b) {
              const ValueId rows = b.Input("rows", DType::kI32, {});
              b.Output(
                  "y",
                  GroupedMatMul(
                      b,
                      b.Input("x", DType::kF32,
                              {Ragged(s.max_rows, rows), Static(s.k)}),
                      b.Input("w", DType::kBF16,
                              {Static(experts), Static(s.n), Static(s.k)}),
                      b.Input("offset", DType::kI32, {Static(experts + 1)})));
            },
            {RegisterGroupedMatMulKernels}, {DType::kF32, num_threads});
        run.Set<int32_t>("offset", offset);
        run.Set<int32_t>("rows", {offset.back()});
        run.Set("x", x);
        run.Set("w", w);
        ASSERT_THAT(run.Run(), IsOk());
        results[num_threads - 1] = run.Get<float>("y");
      }
      EXPECT_EQ(results[0], results[1]) << "another number of threads";
      const std::vector<float>& y = results[0];
      ASSERT_EQ(static_cast<int64_t>(y.size()), offset.back() * s.n);
      for (int64_t e = 0; e < experts; ++e) {
        for (int64_t row = offset[e]; row < offset[e + 1]; ++row) {
          for (int64_t column = 0; column < s.n; ++column) {
            double sum = 0, magnitude = 0;
            for (int64_t p = 0; p < s.k; ++p) {
              const double term = double{x[row * s.k + p]} *
                                  Widen(w[(e * s.n + column) * s.k + p]);
              sum += term;
              magnitude += std::abs(term);
            }
            // At most k + 1 roundings, each by 2^-24 of at most `magnitude`.
            ASSERT_NEAR(y[row * s.n + column], sum,
                        (s.k + 1) * std::ldexp(magnitude, -24))
                << row << " " << column;
          }
        }
      }
    }
  }
}

TEST(GroupedMatMulTest, WithoutAnyRowsGivesZeroWeightGradients) {
  const Products<float> products =
      RunProducts<float>({4, 1, 2}, {0, 0}, {}, {}, {1, 2, 3, 4});

  EXPECT_THAT(products.y, ElementsAre());
  EXPECT_THAT(products.dw, ElementsAre(0, 0, 0, 0));
}

// Sizes on both sides of each boundary: 8 rows and 1200 elements for dot
// products, tiles of 256 rows and 512 (128 for dots) columns.
struct Case {
  std::vector<int32_t> group;
  int64_t n, k;
};
const Case kCases[] = {
    {{1}, 1, 1},
    {{8, 9, 0, 1}, 129, 33},
    {{0, 37, 38, 0}, 32, 40},  // 1184 and 1216 elements.
    {{255, 256, 257}, 16, 8},
    {{600, 0, 3, 1}, 24, 17},
    {{9, 2, 20}, 513, 5},
    {{4, 12}, 7, 1025},
    {{12, 4}, 1025, 3},
};

template <typename T>
void ExpectAgreesWithLoops(const Case& c, double epsilon) {
  const std::vector<int32_t> offset = Offsets(c.group);
  const int64_t rows = offset.back(), experts = c.group.size();
  const auto x = RandomValues<T>(rows * c.k, 1);
  const auto dy = RandomValues<T>(rows * c.n, 2);
  const auto w = RandomValues<T>(experts * c.n * c.k, 3);

  const Products<T> products =
      RunProducts<T>({rows + 3, c.n, c.k}, c.group, x, dy, w);

  std::vector<double> y(rows * c.n), dx(rows * c.k), dw(w.size());
  for (int64_t e = 0; e < experts; ++e) {
    for (int64_t r = offset[e]; r < offset[e + 1]; ++r) {
      for (int64_t i = 0; i < c.n; ++i) {
        for (int64_t j = 0; j < c.k; ++j) {
          const int64_t at = (e * c.n + i) * c.k + j;
          y[r * c.n + i] += double{x[r * c.k + j]} * w[at];
          dx[r * c.k + j] += double{dy[r * c.n + i]} * w[at];
          dw[at] += double{dy[r * c.n + i]} * x[r * c.k + j];
        }
      }
    }
  }
  // A sum of m products of standard normals is off by epsilon times the sum of
  // its partial sums at most: sqrt(m) terms of size sqrt(m), with room.
  const auto expect_near = [&](const std::vector<T>& got,
                               const std::vector<double>& want, int64_t m) {
    ASSERT_EQ(got.size(), want.size());
    double worst = 0;
    for (size_t i = 0; i < got.size(); ++i) {
      worst = std::max(worst, std::abs(got[i] - want[i]));
    }
    EXPECT_LE(worst, 8 * epsilon * m + 8 * epsilon);
  };
  expect_near(products.y, y, c.k);
  expect_near(products.dx, dx, c.n);
  expect_near(products.dw, dw,
              *std::max_element(c.group.begin(), c.group.end()));
}

TEST(GroupedMatMulTest, AgreesWithLoops) {
  for (const Case& c : kCases) {
    SCOPED_TRACE(testing::Message() << "n " << c.n << " k " << c.k);
    ExpectAgreesWithLoops<float>(c, 1.2e-7);
    ExpectAgreesWithLoops<double>(c, 2.3e-16);
  }
}

TEST(GroupedMatMulTest, IsBitEqualForAnyNumberOfThreads) {
  for (const Case& c : kCases) {
    const int64_t rows = Offsets(c.group).back();
    const auto x = RandomValues<float>(rows * c.k, 1);
    const auto dy = RandomValues<float>(rows * c.n, 2);
    const auto w = RandomValues<float>(c.group.size() * c.n * c.k, 3);
    const Shape shape = {rows, c.n, c.k};

    const Products<float> one = RunProducts(shape, c.group, x, dy, w, 1);

    for (const int num_threads : {2, 3}) {
      const Products<float> many =
          RunProducts(shape, c.group, x, dy, w, num_threads);
      EXPECT_EQ(many.y, one.y);
      EXPECT_EQ(many.dx, one.dx);
      EXPECT_EQ(many.dw, one.dw);
    }
  }
}

// Of decoding: an answer must not depend on other people's requests.
TEST(GroupedMatMulTest, RowsOfAnExpertWithFewDoNotDependOnTheOthers) {
  const int64_t n = 260, k = 100;
  const auto x = RandomValues<float>(8 * k, 1);
  const auto w = RandomValues<float>(2 * n * k, 3);
  const std::vector<float> dy(8 * n);
  const Products<float> together = RunProducts({8, n, k}, {8, 0}, x, dy, w);

  for (int64_t first = 0; first < 8; ++first) {
    for (const int32_t mates : {0, 8}) {
      const std::vector<float> alone(x.begin() + first * k,
                                     x.begin() + (first + 1) * k);
      std::vector<float> batch = alone;
      batch.insert(batch.end(), x.begin(), x.begin() + mates * k);
      const Products<float> some =
          RunProducts({9, n, k}, {1, mates}, batch, {}, w);
      EXPECT_TRUE(std::equal(some.y.begin(), some.y.begin() + n,
                             together.y.begin() + first * n));
    }
  }
}

// Of prefill and training. Where the processor has no AVX-512, OpenBLAS has
// kernels that round the last rows of a product differently.
TEST(GroupedMatMulTest, RowsOfAnExpertWithManyDoNotDependOnTheOthers) {
  if (!__builtin_cpu_supports("avx512vl") ||
      !__builtin_cpu_supports("avx512bw")) {
    GTEST_SKIP() << "no AVX-512";
  }
  for (const auto& [n, k] : {std::pair<int64_t, int64_t>{160, 384},
                             {384, 80},
                             {128, 64},
                             {520, 33},
                             {40, 100}}) {
    const int32_t many = 270;  // Two tiles.
    const auto x = RandomValues<float>(many * k, 1);
    const auto w = RandomValues<float>(n * k, 3);
    const Products<float> all = RunProducts({many, n, k}, {many}, x, {}, w);
    for (const int32_t some : {39, 64, 129, 269}) {
      const int64_t first = many - some;
      const std::vector<float> last(x.begin() + first * k, x.end());
      const Products<float> part =
          RunProducts({some, n, k}, {some}, last, {}, w);
      EXPECT_TRUE(
          std::equal(part.y.begin(), part.y.end(), all.y.begin() + first * n))
          << some << " rows, n " << n << " k " << k;
    }
  }
}

TEST(GroupedMatMulTest, RejectsOffsetsThatDoNotFit) {
  GraphRun run(
      [](GraphBuilder& b) {
        BuildProducts(b, {4, 1, 2}, 2);
      },
      {RegisterGroupedMatMulKernels});
  run.Set<int32_t>("rows", {3});

  run.Set<int32_t>("offset", {0, 3, 2});
  EXPECT_THAT(run.Run(), StatusIs(absl::StatusCode::kInvalidArgument,
                                  HasSubstr("expert 1 owns rows from 3 to 2")));
  run.Set<int32_t>("offset", {0, 1, 2});
  EXPECT_THAT(run.Run(), StatusIs(absl::StatusCode::kInvalidArgument,
                                  HasSubstr("own rows 0 to 2; want 0 to 3")));
}

bool FillGroups(const std::string& name, const TensorView& view) {
  if (name == "rows") {
    *view.as<int32_t>() = 13;
    return true;
  }
  if (name == "offset") {
    const std::vector<int32_t> offset = {0, 2, 2, 13};
    std::copy(offset.begin(), offset.end(), view.as<int32_t>());
    return true;
  }
  return false;
}

TEST(GroupedMatMulTest, GradientsAgreeWithDifferences) {
  GradCheckOptions options;
  options.fill = FillGroups;
  for (const bool transpose : {true, false}) {
    EXPECT_THAT(
        CheckGradients(
            [&](GraphBuilder& b) -> std::vector<ValueId> {
              const ValueId rows = b.Input("rows", DType::kI32, {});
              const ValueId x =
                  b.Input("x", DType::kF64, {Ragged(15, rows), Static(4)});
              const ValueId w =
                  transpose
                      ? b.Parameter("w", {Static(3), Static(5), Static(4)})
                      : b.Parameter("w", {Static(3), Static(4), Static(5)});
              return {GroupedMatMul(b, x, w,
                                    b.Input("offset", DType::kI32, {Static(4)}),
                                    transpose)};
            },
            {RegisterGroupedMatMulKernels}, options),
        IsOk());
  }
}

}  // namespace
}  // namespace strata
