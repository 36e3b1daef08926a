#include "core/ops/rope.h"

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

class RopeTest : public testing::Test {
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
  ValueId Int(const char* name, Dims dims) {
    return b_.Input(name, DType::kI32, dims);
  }
  void ExpectError(const char* text) {
    EXPECT_THAT(b_.status(), StatusIs(kInvalid, HasSubstr(text)));
  }

  GraphBuilder b_{DType::kF32};
  const Dim t_ = Ragged(30, b_.Input("t", DType::kI32, {}));
};

TEST_F(RopeTest, KeepsTheShape) {
  EXPECT_EQ(Text(Rope(b_, Float("x", {t_, Static(24)}), Int("p", {t_}),
                      {/*num_heads=*/3, /*rotary_dim=*/6})),
            "F32[t<=30, 24]");
}

TEST_F(RopeTest, WantsWholeHeads) {
  Rope(b_, Float("x", {t_, Static(24)}), Int("p", {t_}), {5, 4});
  ExpectError("num_heads is 5; want a divisor of 24, the columns of x");
}

TEST_F(RopeTest, WantsAnEvenPartOfAHead) {
  for (const int64_t rotary_dim : {0, 5, 10}) {
    GraphBuilder b;
    const ValueId x = b.Input("x", DType::kF32, {Static(2), Static(24)});
    Rope(b, x, b.Input("p", DType::kI32, {Static(2)}), {3, rotary_dim});
    EXPECT_THAT(b.status(),
                StatusIs(kInvalid, HasSubstr("want an even number from 2 to 8, "
                                             "the columns of a head")));
  }
}

TEST_F(RopeTest, WantsAPositionARow) {
  Rope(b_, Float("x", {t_, Static(24)}), Int("p", {Static(30)}), {3, 4});
  ExpectError("position is I32[30]; want I32[t<=30]");
}

TEST_F(RopeTest, WantsAPositiveTheta) {
  Rope(b_, Float("x", {t_, Static(24)}), Int("p", {t_}), {3, 4, 0});
  ExpectError("theta is 0; want more than 0");
}

TEST_F(RopeTest, CostsThreeFlopsARotatedColumn) {
  Rope(b_, Float("x", {t_, Static(24)}), Int("p", {t_}), {3, 6});
  EXPECT_EQ(LatestCost(20).flops, 3 * 20 * 3 * 6);
}

}  // namespace
}  // namespace strata
