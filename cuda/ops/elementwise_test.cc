#include "core/ops/elementwise.h"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <string>
#include <vector>

#include "core/graph/builder.h"
#include "core/ops/activation.h"
#include "core/ops/norm.h"
#include "core/testing/status_matchers.h"
#include "cuda/testing/both_backends.h"
#include "cuda/testing/test_inputs.h"
#include "gtest/gtest.h"

// Families that go row by row, or element by element: elementwise, activation,
// norm.

namespace strata::gpu {
namespace {

using RowwiseTest = DeviceTest<RowsColumns>;

TEST_P(RowwiseTest, Elementwise) {
  const auto [rows, columns] = GetParam();
  EXPECT_THAT(CompareBackends(
                  [rows = rows, columns = columns](GraphBuilder& b) {
                    const Dim t = RaggedRows(b, rows);
                    const ValueId x = FloatInput(b, "x", t, columns);
                    const ValueId y = FloatInput(b, "y", t, columns);
                    const ValueId bias = b.Parameter("bias", {Static(columns)});
                    b.Output("one", strata::Fill(b, 1.5));
                    return std::vector<ValueId>{
                        AddBias(b, Add(b, x, Scale(b, y, 0.3)), bias),
                        SliceColumns(b, x, columns / 3, columns - columns / 3)};
                  },
                  // Gradients of the bias are sums over rows.
                  {/*roundings=*/8. + rows, WithRows(rows)}),
              IsOk());
}

TEST_P(RowwiseTest, Activation) {
  const auto [rows, columns] = GetParam();
  EXPECT_THAT(
      CompareBackends(
          [rows = rows, columns = columns](GraphBuilder& b) {
            const Dim t = RaggedRows(b, rows);
            const ValueId mask =
                b.Input("mask", DType::kU8, {t, Static(columns)});
            const ValueId x = FloatInput(b, "x", t, columns);
            return std::vector<ValueId>{
                SwiGlu(b, FloatInput(b, "h", t, 2 * columns)), Sigmoid(b, x),
                MaskedSoftmax(b, x, mask, 0.7),
                MaskedSoftmax(b, x, kNone, 1.3)};
          },
          // An exponential is good to some ulp of its argument's size.
          {/*roundings=*/32. + columns,
           WithRows(rows,
                    [](const std::string& name, const TensorView& view) {
                      if (name != "mask") return false;
                      FillMask(view, 3);
                      return true;
                    })}),
      IsOk());
}

// A norm's gradient is the difference of two terms,
//
//   dx = rstd dy gain - rstd x^ mean(dy gain x^)      x^ = x rstd
//
// and what is along x goes: all but a share of eps if there is one column. Its
// roundings are of the terms, the mean's being of the sizes that it sums.
// Returns the largest sum of both sizes over `rows` rows of `columns`.
constexpr double kNormEps = 1e-5;
double NormGradTerms(const std::vector<double>& x,
                     const std::vector<double>& gain,
                     const std::vector<double>& dy, int64_t rows,
                     int64_t columns) {
  double largest = 0;
  for (int64_t row = 0; row < rows; ++row) {
    const double* const xs = &x[row * columns];
    const double* const dys = &dy[row * columns];
    double squares = 0;
    for (int64_t i = 0; i < columns; ++i) squares += xs[i] * xs[i];
    const double rstd = 1 / std::sqrt(squares / columns + kNormEps);
    double mean = 0;
    for (int64_t i = 0; i < columns; ++i) {
      mean += std::abs(dys[i] * gain[i] * xs[i]) * rstd / columns;
    }
    for (int64_t i = 0; i < columns; ++i) {
      largest = std::max(largest, rstd * (std::abs(dys[i] * gain[i]) +
                                          std::abs(xs[i]) * rstd * mean));
    }
  }
  return largest;
}

TEST_P(RowwiseTest, Norm) {
  const auto [rows, columns] = GetParam();
  CompareOptions options = {/*roundings=*/16. + columns + 3. * rows,
                            WithRows(rows)};
  options.terms = [rows = rows, columns = columns](const std::string& name,
                                                   const Sources& s) {
    if (name == "d x") {
      return NormGradTerms(s.at("x"), s.at("gain"), s.at("seed0"), rows,
                           columns);
    }
    if (name == "d heads") {
      return NormGradTerms(s.at("heads"), s.at("head_gain"), s.at("seed1"),
                           3 * rows, columns);
    }
    return 0.;
  };
  EXPECT_THAT(
      CompareBackends(
          [rows = rows, columns = columns](GraphBuilder& b) {
            const Dim t = RaggedRows(b, rows);
            // Rows of one group and rows of three.
            return std::vector<ValueId>{
                RmsNorm(b, FloatInput(b, "x", t, columns),
                        b.Parameter("gain", {Static(columns)}), kNormEps),
                RmsNorm(b, FloatInput(b, "heads", t, 3 * columns),
                        b.Parameter("head_gain", {Static(columns)}), kNormEps)};
          },
          options),
      IsOk());
}

// Rows and columns on both sides of a warp, of its vectors, of a block, and of
// more rows than blocks stride over at once.
INSTANTIATE_TEST_SUITE_P(
    Shapes, RowwiseTest,
    testing::Values(RowsColumns{0, 8}, RowsColumns{1, 1}, RowsColumns{3, 31},
                    RowsColumns{4, 32}, RowsColumns{5, 33}, RowsColumns{31, 64},
                    RowsColumns{33, 127}, RowsColumns{7, 1024},
                    RowsColumns{9, 1028}, RowsColumns{257, 130},
                    RowsColumns{17000, 12}),
    RowsColumnsName<RowsColumns>);

}  // namespace
}  // namespace strata::gpu
