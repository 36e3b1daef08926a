#include "core/ops/grouped_matmul.h"

#include <string>

#include "absl/status/status.h"
#include "core/graph/builder.h"
#include "core/graph/graph.h"
#include "core/graph/op_def.h"
#include "core/testing/status_matchers.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace strata {
namespace {

using ::testing::HasSubstr;

constexpr auto kInvalid = absl::StatusCode::kInvalidArgument;

// Eight experts of [6, 4].
class GroupedMatMulTest : public testing::Test {
 protected:
  Cost LatestCost(double rows) {
    return CostOf(b_.graph(), b_.graph().nodes().back(),
                  [rows](ValueId, int64_t) { return rows; });
  }
  std::string Text(ValueId value) { return ToText(b_.graph(), b_.type(value)); }

  GraphBuilder b_{DType::kF32};
  const Dim r_ = Ragged(30, b_.Input("r", DType::kI32, {}));
  const ValueId x_ = b_.Input("x", DType::kF32, {r_, Static(4)});
  const ValueId y_ = b_.Input("y", DType::kF32, {r_, Static(6)});
  const ValueId w_ = b_.Parameter("w", {Static(8), Static(6), Static(4)});
  const ValueId offset_ = b_.Input("offset", DType::kI32, {Static(9)});
};

TEST_F(GroupedMatMulTest, InfersBothWaysAndTheWeightGradient) {
  EXPECT_EQ(Text(GroupedMatMul(b_, x_, w_, offset_)), "F32[r<=30, 6]");
  EXPECT_EQ(Text(GroupedMatMul(b_, y_, w_, offset_, false)), "F32[r<=30, 4]");
  EXPECT_EQ(Text(b_.Add1(kGroupedWeightGrad, {y_, x_, offset_})),
            "F32[8, 6, 4]");
}

TEST_F(GroupedMatMulTest, WantsEqualInnerExtents) {
  GroupedMatMul(b_, y_, w_, offset_);
  EXPECT_THAT(
      b_.status(),
      StatusIs(kInvalid, HasSubstr("x is F32[r<=30, 6] and w F32[8, 6, 4] "
                                   "transposed; want one dtype")));
}

TEST_F(GroupedMatMulTest, WantsOneOffsetMoreThanExperts) {
  GroupedMatMul(b_, x_, w_, b_.Input("short", DType::kI32, {Static(8)}));
  EXPECT_THAT(b_.status(),
              StatusIs(kInvalid, HasSubstr("offset is I32[8]; want I32[9]")));
}

TEST_F(GroupedMatMulTest, WeightGradWantsRowsOfOneCount) {
  b_.Add1(kGroupedWeightGrad,
          {y_, b_.Input("z", DType::kF32, {Static(30), Static(4)}), offset_});
  EXPECT_THAT(
      b_.status(),
      StatusIs(kInvalid, HasSubstr("x is F32[30, 4]; want F32[r<=30, 4]")));
}

TEST_F(GroupedMatMulTest, CostsTwoFlopsARowAndWeight) {
  GroupedMatMul(b_, x_, w_, offset_);
  EXPECT_EQ(LatestCost(20).flops, 2 * 20 * 6 * 4);
  GroupedMatMul(b_, y_, w_, offset_, false);
  EXPECT_EQ(LatestCost(20).flops, 2 * 20 * 6 * 4);
  b_.Add1(kGroupedWeightGrad, {y_, x_, offset_});
  EXPECT_EQ(LatestCost(20).flops, 2 * 20 * 6 * 4);
}

TEST_F(GroupedMatMulTest, ReadsAtMostAnExpertARow) {
  GroupedMatMul(b_, x_, w_, offset_);
  EXPECT_EQ(LatestCost(20).bytes_read, 4 * (20 * 4 + 8 * 6 * 4 + 9));
  EXPECT_EQ(LatestCost(3).bytes_read, 4 * (3 * 4 + 3 * 6 * 4 + 9));
  EXPECT_EQ(LatestCost(3).bytes_written, 4 * 3 * 6);
}

}  // namespace
}  // namespace strata
