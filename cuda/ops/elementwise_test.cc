#include "core/ops/elementwise.h"

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

TEST_P(RowwiseTest, Norm) {
  const auto [rows, columns] = GetParam();
  EXPECT_THAT(
      CompareBackends(
          [rows = rows, columns = columns](GraphBuilder& b) {
            const Dim t = RaggedRows(b, rows);
            // Rows of one group and rows of three.
            return std::vector<ValueId>{
                RmsNorm(b, FloatInput(b, "x", t, columns),
                        b.Parameter("gain", {Static(columns)}), 1e-5),
                RmsNorm(b, FloatInput(b, "heads", t, 3 * columns),
                        b.Parameter("head_gain", {Static(columns)}), 1e-5)};
          },
          {/*roundings=*/16. + columns + 3. * rows, WithRows(rows)}),
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
