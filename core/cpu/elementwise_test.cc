#include "core/cpu/elementwise.h"

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "core/graph/builder.h"
#include "core/ops/elementwise.h"
#include "core/tensor/dtype.h"
#include "core/testing/grad_check.h"
#include "core/testing/graph_run.h"
#include "core/testing/status_matchers.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace strata {
namespace {

constexpr int64_t kBound = 600;

absl::StatusOr<RunResult> RunAll(DType dtype, int num_threads, int64_t count,
                                 int64_t n) {
  return RunGraph(
      dtype, num_threads, {RegisterElementwiseKernels},
      [&](GraphBuilder& b) {
        const Dim t = Ragged(kBound, b.Input("n", DType::kI32, {}));
        const ValueId x = b.Input("x", dtype, {t, Static(n)});
        const ValueId y = b.Input("y", dtype, {t, Static(n)});
        b.Output("add", Add(b, x, y));
        const ValueId bias = b.Parameter("bias", {Static(n)});
        b.Output("add_bias", AddBias(b, x, bias));
        b.Output("sum_rows", SumRows(b, x));
        b.Output("scale", Scale(b, x, 0.5));
        b.Output("fill", Fill(b, 2.5));
        b.Output("slice", SliceColumns(b, x, n / 3, n - n / 3));
        b.Output("place", PlaceColumns(b, x, 2, n + 3));
      },
      [&](const std::string& name, const TensorView& view) {
        if (name == "n") Copy({static_cast<double>(count)}, view);
        if (name == "x") Copy(Normal(count * n, 1), view);
        if (name == "y") Copy(Normal(count * n, 2), view);
        if (name == "bias") Copy(Normal(n, 3), view);
      });
}

// 600 rows of 40 are more than one chunk (16384 elements).
TEST(ElementwiseTest, GoesElementByElement) {
  for (const int64_t count : {0, 1, 409, 410, 600}) {
    for (const int64_t n : {1, 17, 40}) {
      SCOPED_TRACE(testing::Message() << count << " rows of " << n);
      const std::vector<double> x = Normal(count * n, 1);
      const std::vector<double> y = Normal(count * n, 2);
      const std::vector<double> bias = Normal(n, 3);
      std::vector<double> add, add_bias, scale, slice, sum_rows(n);
      std::vector<double> place(count * (n + 3));
      for (int64_t i = 0; i < count * n; ++i) {
        add.push_back(x[i] + y[i]);
        add_bias.push_back(x[i] + bias[i % n]);
        sum_rows[i % n] += x[i];
        scale.push_back(0.5 * x[i]);
        if (i % n >= n / 3) slice.push_back(x[i]);
        place[i / n * (n + 3) + 2 + i % n] = x[i];
      }

      const auto result = RunAll(DType::kF64, 2, count, n);
      const auto one = RunAll(DType::kF32, 1, count, n);
      const auto three = RunAll(DType::kF32, 3, count, n);

      ASSERT_THAT(result, IsOk());
      EXPECT_EQ(result->at("add"), add);
      EXPECT_EQ(result->at("add_bias"), add_bias);
      EXPECT_EQ(result->at("sum_rows"), sum_rows);
      EXPECT_EQ(result->at("scale"), scale);
      EXPECT_EQ(result->at("slice"), slice);
      EXPECT_EQ(result->at("place"), place);
      EXPECT_THAT(result->at("fill"), ::testing::ElementsAre(2.5));
      ASSERT_THAT(one, IsOk());
      ASSERT_THAT(three, IsOk());
      EXPECT_EQ(*one, *three);
      EXPECT_EQ(one->at("slice"), slice);
      EXPECT_EQ(one->at("place"), place);
    }
  }
}

TEST(ElementwiseTest, GradientsMatchDifferences) {
  EXPECT_THAT(CheckGradients(
                  [](GraphBuilder& b) -> std::vector<ValueId> {
                    const Dims dims = {Static(4), Static(6)};
                    const ValueId x = b.Input("x", DType::kF64, dims);
                    const ValueId y = b.Parameter("y", dims);
                    const ValueId bias = b.Parameter("bias", {Static(6)});
                    return {Add(b, x, y), Scale(b, x, -3), AddBias(b, y, bias),
                            SliceColumns(b, Add(b, y, y), 1, 4),
                            PlaceColumns(b, x, 2, 9)};
                  },
                  {RegisterElementwiseKernels}),
              IsOk());
}

}  // namespace
}  // namespace strata
