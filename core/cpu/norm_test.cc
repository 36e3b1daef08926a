#include "core/cpu/norm.h"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "core/cpu/elementwise.h"
#include "core/graph/builder.h"
#include "core/ops/norm.h"
#include "core/tensor/dtype.h"
#include "core/testing/grad_check.h"
#include "core/testing/graph_run.h"
#include "core/testing/status_matchers.h"
#include "gtest/gtest.h"

namespace strata {
namespace {

constexpr double kEps = 1e-5;
constexpr int64_t kBound = 140;

// Runs the norm and its gradients on `count` of kBound rows; rows behind the
// count hold NaN.
absl::StatusOr<RunResult> RunNorm(DType dtype, int num_threads, int64_t count,
                                  int64_t d) {
  return RunGraph(
      dtype, num_threads, {RegisterNormKernels},
      [&](GraphBuilder& b) {
        const ValueId n = b.Input("n", DType::kI32, {});
        const Dims dims = {Ragged(kBound, n), Static(d)};
        const ValueId x = b.Input("x", dtype, dims);
        const ValueId dy = b.Input("dy", dtype, dims);
        const ValueId gain = b.Parameter("gain", {Static(d)});
        const std::vector<ValueId> out =
            b.Add(kRmsNorm, {x, gain}, {{"eps", kEps}});
        b.Output("y", out[0]);
        b.Output("rstd", out[1]);
        b.Output("dx", b.Add1(kRmsNormInputGrad, {dy, x, gain, out[1]}));
        b.Output("dgain", b.Add1(kRmsNormWeightGrad, {dy, x, gain, out[1]}));
      },
      [&](const std::string& name, const TensorView& view) {
        if (name == "n") return Copy({static_cast<double>(count)}, view);
        std::vector<double> values =
            Normal(view.num_elements(), static_cast<uint32_t>(name.size()));
        if (name != "gain") {
          std::fill(values.begin() + count * d, values.end(), NAN);
        }
        Copy(values, view);
      });
}

// With a gain of a third of the columns, a row is three, forward and backward.
TEST(NormTest, NormalisesGroupsLikeRowsOfTheirOwn) {
  constexpr int64_t kRows = 50, kGroups = 3, kColumns = 10;
  const auto run = [&](int64_t rows, int64_t groups, DType dtype) {
    return RunGraph(
        dtype, 2, {RegisterNormKernels},
        [&](GraphBuilder& b) {
          const Dims dims = {Static(rows), Static(groups * kColumns)};
          const ValueId x = b.Input("x", dtype, dims);
          const ValueId dy = b.Input("dy", dtype, dims);
          const ValueId gain = b.Parameter("gain", {Static(kColumns)});
          const std::vector<ValueId> out =
              b.Add(kRmsNorm, {x, gain}, {{"eps", kEps}});
          b.Output("y", out[0]);
          b.Output("rstd", out[1]);
          b.Output("dx", b.Add1(kRmsNormInputGrad, {dy, x, gain, out[1]}));
          b.Output("dgain", b.Add1(kRmsNormWeightGrad, {dy, x, gain, out[1]}));
        },
        [&](const std::string& name, const TensorView& view) {
          Copy(Normal(view.num_elements(), static_cast<uint32_t>(name.size())),
               view);
        });
  };
  for (const DType dtype : {DType::kF32, DType::kF64}) {
    const auto groups = run(kRows, kGroups, dtype);
    const auto rows = run(kRows * kGroups, 1, dtype);
    ASSERT_THAT(groups, IsOk());
    ASSERT_THAT(rows, IsOk());
    EXPECT_EQ(*groups, *rows);
  }
}

// Rows on both sides of a block of the gain's gradient (64), columns on both
// sides of vectors.
TEST(NormTest, NormalisesLikeAPlainLoop) {
  for (const int64_t count : {0, 1, 63, 64, 65, 140}) {
    for (const int64_t d : {1, 15, 16, 33, 128}) {
      SCOPED_TRACE(testing::Message() << count << " rows of " << d);
      const std::vector<double> x = Normal(kBound * d, 1);
      const std::vector<double> dy = Normal(kBound * d, 2);
      const std::vector<double> gain = Normal(d, 4);
      for (const DType dtype : {DType::kF32, DType::kF64}) {
        const auto result = RunNorm(dtype, 2, count, d);
        ASSERT_THAT(result, IsOk());
        // A row of d is summed once or twice; the gain's gradient over rows.
        const double tolerance = dtype == DType::kF32 ? 2e-5 : 1e-13;
        std::vector<double> dgain(d);
        ASSERT_EQ(result->at("rstd").size(), static_cast<size_t>(count));
        for (int64_t i = 0; i < count; ++i) {
          double squares = 0, dot = 0;
          for (int64_t j = 0; j < d; ++j) {
            squares += x[i * d + j] * x[i * d + j];
            dot += dy[i * d + j] * gain[j] * x[i * d + j];
          }
          const double rstd = 1 / std::sqrt(squares / d + kEps);
          EXPECT_NEAR(result->at("rstd")[i] / rstd, 1, tolerance);
          for (int64_t j = 0; j < d; ++j) {
            const int64_t at = i * d + j;
            const double dx =
                rstd * dy[at] * gain[j] - x[at] * rstd * rstd * rstd * dot / d;
            dgain[j] += dy[at] * x[at] * rstd;
            EXPECT_NEAR(result->at("y")[at], x[at] * rstd * gain[j], tolerance);
            const double scale =
                std::abs(rstd * dy[at] * gain[j]) + std::abs(dx);
            EXPECT_NEAR(result->at("dx")[at], dx, tolerance * (1 + scale));
          }
        }
        for (int64_t j = 0; j < d; ++j) {
          EXPECT_NEAR(result->at("dgain")[j], dgain[j], 4 * tolerance);
        }
      }
    }
  }
}

TEST(NormTest, RepeatsBitForBitOnAnyNumberOfThreads) {
  const auto one = RunNorm(DType::kF32, 1, 133, 65);
  ASSERT_THAT(one, IsOk());
  for (const int num_threads : {2, 3}) {
    const auto more = RunNorm(DType::kF32, num_threads, 133, 65);
    ASSERT_THAT(more, IsOk());
    for (const char* name : {"y", "rstd", "dx", "dgain"}) {
      EXPECT_EQ(one->at(name), more->at(name)) << name;
    }
  }
}

TEST(NormTest, GradientsMatchDifferences) {
  EXPECT_THAT(
      CheckGradients(
          [](GraphBuilder& b) -> std::vector<ValueId> {
            const ValueId x =
                b.Input("x", DType::kF64, {Static(70), Static(9)});
            return {RmsNorm(b, x, b.Parameter("gain", {Static(9)}), kEps)};
          },
          {RegisterNormKernels, RegisterElementwiseKernels}),
      IsOk());
}

}  // namespace
}  // namespace strata
