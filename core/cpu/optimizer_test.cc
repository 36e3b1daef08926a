#include "core/cpu/optimizer.h"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "core/graph/builder.h"
#include "core/ops/optimizer.h"
#include "core/tensor/dtype.h"
#include "core/testing/graph_run.h"
#include "core/testing/status_matchers.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace strata {
namespace {

using ::testing::HasSubstr;

// Both sides of a chunk (16384 elements).
constexpr int64_t kSizes[] = {1, 7, 16384, 16385, 40000};

absl::StatusOr<RunResult> RunAccumulate(DType dtype, int num_threads,
                                        const std::vector<double>& sum,
                                        const std::vector<double>& value,
                                        double keep) {
  return RunGraph(
      dtype, num_threads, {RegisterOptimizerKernels},
      [&](GraphBuilder& b) {
        const Dims dims = {Static(static_cast<int64_t>(sum.size()))};
        Accumulate(b, b.State("sum", dtype, dims),
                   b.Input("value", dtype, dims), b.Input("keep", dtype, {}));
      },
      [&](const std::string& name, const TensorView& view) {
        if (name == "sum") Copy(sum, view);
        if (name == "value") Copy(value, view);
        if (name == "keep") Copy({keep}, view);
      });
}

TEST(AccumulateTest, AddsOrForgets) {
  const double nan = std::numeric_limits<double>::quiet_NaN();

  const auto added = RunAccumulate(DType::kF32, 1, {1, 2}, {10, 20}, 1);
  const auto halved = RunAccumulate(DType::kF64, 1, {1, 2}, {10, 20}, 0.5);
  const auto forgot = RunAccumulate(DType::kF32, 1, {nan, 2}, {10, 20}, 0);

  ASSERT_THAT(added, IsOk());
  EXPECT_THAT(added->at("sum"), ::testing::ElementsAre(11, 22));
  ASSERT_THAT(halved, IsOk());
  EXPECT_THAT(halved->at("sum"), ::testing::ElementsAre(10.5, 21));
  ASSERT_THAT(forgot, IsOk());
  EXPECT_THAT(forgot->at("sum"), ::testing::ElementsAre(10, 20));
}

TEST(AccumulateCountsTest, AddsOrForgets) {
  for (const DType dtype : {DType::kF32, DType::kF64}) {
    for (const double keep : {0, 1}) {
      const auto result = RunGraph(
          dtype, 1, {RegisterOptimizerKernels},
          [&](GraphBuilder& b) {
            AccumulateCounts(b, b.State("sum", DType::kI32, {Static(2)}),
                             b.Input("value", DType::kI32, {Static(2)}),
                             b.Input("keep", dtype, {}));
          },
          [&](const std::string& name, const TensorView& view) {
            if (name == "sum") Copy({1 << 24, 2}, view);
            if (name == "value") Copy({1, 20}, view);
            if (name == "keep") Copy({keep}, view);
          });
      ASSERT_THAT(result, IsOk());
      // The first is no float.
      EXPECT_THAT(result->at("sum"),
                  ::testing::ElementsAre(1 + keep * (1 << 24), 20 + keep * 2));
    }
  }
}

// The norm of Normal(n, i + 1) / 4 for the i-th of `sizes`.
absl::StatusOr<RunResult> RunGlobalNorm(DType dtype, int num_threads,
                                        const std::vector<int64_t>& sizes) {
  return RunGraph(
      dtype, num_threads, {RegisterOptimizerKernels},
      [&](GraphBuilder& b) {
        std::vector<ValueId> grads;
        for (size_t i = 0; i < sizes.size(); ++i) {
          grads.push_back(
              b.Input(std::string(i + 1, 'g'), dtype, {Static(sizes[i])}));
        }
        b.Output("norm", GlobalNorm(b, grads, b.Input("divisor", dtype, {})));
      },
      [&](const std::string& name, const TensorView& view) {
        if (name == "divisor") return Copy({4}, view);
        Copy(Normal(view.num_elements(), static_cast<uint32_t>(name.size())),
             view);
      });
}

TEST(GlobalNormTest, SumsAllGradientsAlikeOnAnyNumberOfThreads) {
  for (const std::vector<int64_t>& sizes : std::vector<std::vector<int64_t>>{
           {}, {1}, {16384}, {3, 16385, 40000, 1}}) {
    double squares = 0;
    for (size_t i = 0; i < sizes.size(); ++i) {
      for (const double g : Normal(sizes[i], i + 1)) squares += g * g;
    }

    const auto exact = RunGlobalNorm(DType::kF64, 2, sizes);
    const auto one = RunGlobalNorm(DType::kF32, 1, sizes);
    const auto three = RunGlobalNorm(DType::kF32, 3, sizes);

    ASSERT_THAT(exact, IsOk());
    EXPECT_NEAR(exact->at("norm")[0], std::sqrt(squares) / 4,
                1e-12 * std::sqrt(squares));
    ASSERT_THAT(one, IsOk());
    ASSERT_THAT(three, IsOk());
    EXPECT_EQ(one->at("norm"), three->at("norm"));
    // Sums are in double, so only the result is rounded.
    EXPECT_NEAR(one->at("norm")[0], exact->at("norm")[0],
                1e-7 * exact->at("norm")[0]);
  }
}

struct AdamWCase {
  int64_t n = 1;
  double norm = 1;
  int step = 1;
  AdamWOptions options;
};

absl::StatusOr<RunResult> RunAdamW(DType dtype, int num_threads,
                                   const AdamWCase& c) {
  return RunGraph(
      dtype, num_threads, {RegisterOptimizerKernels},
      [&](GraphBuilder& b) {
        const Dims dims = {Static(c.n)};
        AdamW(b, b.Parameter("param", dims), b.State("m", dtype, dims),
              b.State("v", dtype, dims), b.Input("grad", dtype, dims),
              b.Input("norm", dtype, {}), b.Input("divisor", dtype, {}),
              b.Input("lr", dtype, {}), b.Input("step", DType::kI32, {}),
              c.options);
      },
      [&](const std::string& name, const TensorView& view) {
        if (name == "param") Copy(Normal(c.n, 1), view);
        if (name == "grad") Copy(Normal(c.n, 2), view);
        if (name == "m") Copy(Normal(c.n, 3), view);
        if (name == "v") {
          std::vector<double> v = Normal(c.n, 4);
          for (double& x : v) x = std::abs(x);
          Copy(v, view);
        }
        if (name == "norm") Copy({c.norm}, view);
        if (name == "divisor") Copy({2}, view);
        if (name == "lr") Copy({0.015625}, view);
        if (name == "step") Copy({static_cast<double>(c.step)}, view);
      });
}

TEST(AdamWTest, StepsLikeItsFormula) {
  for (const int64_t n : kSizes) {
    for (const double norm : {0.0, 0.5, 4.0}) {  // Clipped from 1 up.
      for (const int step : {1, 100}) {
        AdamWCase c;
        c.n = n;
        c.norm = norm;
        c.step = step;
        const std::vector<double> param = Normal(n, 1), grad = Normal(n, 2),
                                  m = Normal(n, 3), v = Normal(n, 4);
        for (const DType dtype : {DType::kF32, DType::kF64}) {
          const auto result = RunAdamW(dtype, 2, c);
          ASSERT_THAT(result, IsOk());
          const double tolerance = dtype == DType::kF32 ? 1e-5 : 1e-13;
          double worst = 0;
          for (int64_t i = 0; i < n; ++i) {
            const double g = grad[i] / 2 * std::min(1.0, 1.0 / norm);
            const double want_m = 0.9 * m[i] + 0.1 * g;
            const double want_v = 0.95 * std::abs(v[i]) + 0.05 * g * g;
            const double m_hat = want_m / (1 - std::pow(0.9, step));
            const double v_hat = want_v / (1 - std::pow(0.95, step));
            const double want =
                param[i] -
                0.015625 * (m_hat / (std::sqrt(v_hat) + 1e-8) + 0.1 * param[i]);
            // A tiny v makes the step steep in its rounding.
            const double steep = 1 + std::abs(m_hat) / std::sqrt(v_hat);
            worst = std::max({worst, std::abs(result->at("m")[i] - want_m),
                              std::abs(result->at("v")[i] - want_v),
                              std::abs(result->at("param")[i] - want) / steep});
          }
          EXPECT_LE(worst, tolerance) << n << " " << norm << " " << step;
        }
      }
    }
  }
}

TEST(AdamWTest, RepeatsBitForBitOnAnyNumberOfThreads) {
  AdamWCase c;
  c.n = 40000;
  const auto one = RunAdamW(DType::kF32, 1, c);
  const auto three = RunAdamW(DType::kF32, 3, c);
  ASSERT_THAT(one, IsOk());
  ASSERT_THAT(three, IsOk());
  EXPECT_EQ(*one, *three);
}

TEST(AdamWTest, ChangesNothingIfTheNormIsNotFinite) {
  AdamWCase c;
  c.n = 20;
  for (const double norm : {std::numeric_limits<double>::infinity(),
                            std::numeric_limits<double>::quiet_NaN()}) {
    c.norm = norm;
    const auto result = RunAdamW(DType::kF32, 1, c);
    ASSERT_THAT(result, IsOk());
    EXPECT_EQ(result->at("param"), Normal(c.n, 1));
    EXPECT_EQ(result->at("m"), Normal(c.n, 3));
  }
}

TEST(AdamWTest, RejectsStepZero) {
  AdamWCase c;
  c.step = 0;
  EXPECT_THAT(RunAdamW(DType::kF32, 1, c),
              StatusIs(absl::StatusCode::kInvalidArgument,
                       HasSubstr("step is 0; want 1 or more")));
}

}  // namespace
}  // namespace strata
