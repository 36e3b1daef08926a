#include "core/ops/elementwise.h"

#include <cstdint>
#include <string>

#include "absl/status/status.h"
#include "core/graph/builder.h"
#include "core/graph/graph.h"
#include "core/graph/op_def.h"
#include "core/tensor/dtype.h"
#include "core/testing/status_matchers.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace strata {
namespace {

using ::testing::HasSubstr;

constexpr auto kInvalid = absl::StatusCode::kInvalidArgument;

class ElementwiseTest : public testing::Test {
 protected:
  // Of the latest node, when `t` of the ragged rows are there.
  Cost LatestCost(double t) {
    return CostOf(b_.graph(), b_.graph().nodes().back(),
                  [t](ValueId, int64_t) { return t; });
  }
  std::string Text(ValueId value) { return ToText(b_.graph(), b_.type(value)); }
  ValueId Float(const char* name, Dims dims) {
    return b_.Input(name, DType::kF32, dims);
  }
  void ExpectError(const char* text) {
    EXPECT_THAT(b_.status(), StatusIs(kInvalid, HasSubstr(text)));
  }

  GraphBuilder b_{DType::kF32};
  const Dim t_ = Ragged(30, b_.Input("t", DType::kI32, {}));
};

TEST_F(ElementwiseTest, InfersShapes) {
  const ValueId x = Float("x", {t_, Static(8)});
  EXPECT_EQ(Text(Add(b_, x, x)), "F32[t<=30, 8]");
  EXPECT_EQ(Text(Scale(b_, x, 2)), "F32[t<=30, 8]");
  EXPECT_EQ(Text(Fill(b_, 1)), "F32[]");
  EXPECT_EQ(Text(SliceColumns(b_, x, 3, 5)), "F32[t<=30, 5]");
  EXPECT_EQ(Text(PlaceColumns(b_, x, 3, 11)), "F32[t<=30, 11]");
  GraphBuilder exact(DType::kF64);
  EXPECT_EQ(exact.type(Fill(exact, 1)).dtype, DType::kF64);
}

TEST_F(ElementwiseTest, AddsOnlyWhatIsOfOneType) {
  Add(b_, Float("x", {t_, Static(8)}), Float("y", {Static(30), Static(8)}));
  ExpectError("y is F32[30, 8]; want F32[t<=30, 8]");
}

TEST_F(ElementwiseTest, SlicesOnlyColumnsThatAreThere) {
  SliceColumns(b_, Float("x", {t_, Static(8)}), 4, 5);
  ExpectError(
      "columns 4 to 9 of x, which is F32[t<=30, 8]; want some within 0 to 8");
}

TEST_F(ElementwiseTest, PlacesOnlyWhereThereIsRoom) {
  PlaceColumns(b_, Float("x", {t_, Static(8)}), 4, 11);
  ExpectError(
      "x, which is F32[t<=30, 8], at column 4 of 11; want it to end within "
      "them");
}

TEST_F(ElementwiseTest, CostsAFlopAnElement) {
  const ValueId x = Float("x", {t_, Static(8)});
  Add(b_, x, x);
  EXPECT_EQ(LatestCost(20).flops, 20 * 8);
  Scale(b_, x, 2);
  EXPECT_EQ(LatestCost(20).flops, 20 * 8);
  SliceColumns(b_, x, 3, 5);
  EXPECT_EQ(LatestCost(20).flops, 0);
  EXPECT_EQ(LatestCost(20).bytes_read, 4 * 20 * 5);
  PlaceColumns(b_, x, 3, 11);
  EXPECT_EQ(LatestCost(20).bytes_read, 4 * 20 * 8);
  EXPECT_EQ(LatestCost(20).bytes_written, 4 * 20 * 11);
}

}  // namespace
}  // namespace strata
