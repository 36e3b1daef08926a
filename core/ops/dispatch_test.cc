#include "core/ops/dispatch.h"

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

// t of at most 10 tokens, 3 choices of 8 experts, 16 columns.
class DispatchTest : public testing::Test {
 protected:
  // The cost of the latest node if 6 tokens come, which make 11 rows.
  Cost LatestCost() {
    return CostOf(b_.graph(), b_.graph().nodes().back(),
                  [this](ValueId count, int64_t) {
                    return count == count_ ? 6.0 : 11.0;
                  });
  }
  std::string Text(ValueId value) { return ToText(b_.graph(), b_.type(value)); }
  std::string RowsText(const std::string& rest) {
    return "[%" + std::to_string(plan_.rows) + "<=30" + rest + "]";
  }

  GraphBuilder b_{DType::kF32};
  const ValueId count_ = b_.Input("t", DType::kI32, {});
  const Dim t_ = Ragged(10, count_);
  const ValueId expert_ = b_.Input("expert", DType::kI32, {t_, Static(3)});
  const ValueId weight_ = b_.Input("weight", DType::kF32, {t_, Static(3)});
  const ValueId x_ = b_.Input("x", DType::kF32, {t_, Static(16)});
  const DispatchPlanResult plan_ = DispatchPlan(b_, expert_, 8);
};

TEST_F(DispatchTest, SizesRowsByTheCountThatThePlanMakes) {
  const ValueId rows = DispatchRows(b_, x_, plan_);

  EXPECT_EQ(Text(plan_.row_slot), "I32" + RowsText(""));
  EXPECT_EQ(Text(plan_.slot_row), "I32[t<=10, 3]");
  EXPECT_EQ(Text(plan_.offset), "I32[9]");
  EXPECT_EQ(Text(plan_.rows), "I32[]");
  EXPECT_EQ(Text(rows), "F32" + RowsText(", 16"));
  EXPECT_EQ(Text(CombineRows(b_, rows, plan_, weight_)), "F32[t<=10, 16]");
  EXPECT_EQ(Text(b_.Add1(kRowDot, {x_, rows, plan_.slot_row})),
            "F32[t<=10, 3]");
  EXPECT_THAT(b_.Finish(), IsOk());
}

TEST_F(DispatchTest, CompactedTokensAreSizedByTheirCount) {
  const ValueId stay = b_.Input("stay", DType::kU8, {t_});
  const Compacted on = CompactRows(b_, kNone, stay);
  const std::string n = "[%" + std::to_string(on.count) + "<=10";

  const ValueId kept = GatherRows(b_, x_, on.index);

  EXPECT_EQ(Text(on.index), "I32" + n + "]");
  EXPECT_EQ(Text(kept), "F32" + n + ", 16]");
  EXPECT_EQ(Text(AddRows(b_, x_, kept, on.index)), "F32[t<=10, 16]");
  EXPECT_EQ(Text(b_.Add1(kScatterRows, {kept, on.index, x_})),
            "F32[t<=10, 16]");
}

TEST_F(DispatchTest, PlanWantsAnExpert) {
  DispatchPlan(b_, expert_, 0);
  EXPECT_THAT(b_.status(),
              StatusIs(kInvalid, HasSubstr("num_experts is 0; want 1 to")));
}

TEST_F(DispatchTest, PlanWantsSlotsThatAnInt32Counts) {
  DispatchPlan(
      b_, b_.Input("many", DType::kI32, {Static(1 << 20), Static(1 << 11)}), 8);
  EXPECT_THAT(
      b_.status(),
      StatusIs(kInvalid, HasSubstr("the number of slots is 2147483648")));
}

TEST_F(DispatchTest, RowsWantTheTokensOfThePlan) {
  DispatchRows(b_, b_.Input("y", DType::kF32, {Static(9), Static(16)}), plan_);
  EXPECT_THAT(
      b_.status(),
      StatusIs(kInvalid, HasSubstr("x is F32[9, 16]; want F32[t<=10, 16]")));
}

TEST_F(DispatchTest, CombineWantsTheRowsOfThePlan) {
  CombineRows(b_, x_, plan_);
  EXPECT_THAT(b_.status(),
              StatusIs(kInvalid, HasSubstr("y is F32[t<=10, 16]; want F32" +
                                           RowsText(", 16"))));
}

TEST_F(DispatchTest, WeightsWantOneASlot) {
  DispatchRows(b_, x_, plan_, x_);
  EXPECT_THAT(
      b_.status(),
      StatusIs(kInvalid,
               HasSubstr("weight is F32[t<=10, 16]; want F32[t<=10, 3]")));
}

TEST_F(DispatchTest, CombineAddsRowsLikeItsResult) {
  const ValueId y = DispatchRows(b_, x_, plan_);
  b_.Add1(kCombineRows, {y, plan_.row_slot, plan_.slot_row, kNone, x_, x_});
  EXPECT_EQ(LatestCost().flops, 11 * 16 + 2 * 6 * 16);
  b_.Add1(kCombineRows, {y, plan_.row_slot, plan_.slot_row, kNone, y});
  EXPECT_THAT(b_.status(), StatusIs(kInvalid, HasSubstr("a is F32")));
}

TEST_F(DispatchTest, CompactWantsAByteAToken) {
  CompactRows(b_, kNone, weight_);
  EXPECT_THAT(b_.status(), StatusIs(kInvalid, HasSubstr("want U8 of rank 1")));
}

TEST_F(DispatchTest, AddRowsWantsARowAnIndex) {
  const ValueId index = b_.Input("index", DType::kI32, {Static(4)});
  AddRows(b_, x_, x_, index);
  EXPECT_THAT(
      b_.status(),
      StatusIs(kInvalid, HasSubstr("y is F32[t<=10, 16]; want F32[4, 16]")));
}

TEST_F(DispatchTest, CountsTheRowsThatCome) {
  const ValueId rows = DispatchRows(b_, x_, plan_);
  EXPECT_EQ(LatestCost().flops, 0);
  EXPECT_EQ(LatestCost().bytes_read, 11 * 16 * 4 + 11 * 4);
  EXPECT_EQ(LatestCost().bytes_written, 11 * 16 * 4);
  DispatchRows(b_, x_, plan_, weight_);
  EXPECT_EQ(LatestCost().flops, 11 * 16);
  EXPECT_EQ(LatestCost().bytes_read, 11 * 16 * 4 + 11 * 4 + 11 * 4);
  CombineRows(b_, rows, plan_, weight_);
  EXPECT_EQ(LatestCost().flops, 2 * 11 * 16);
  EXPECT_EQ(LatestCost().bytes_read, 11 * 16 * 4 + 2 * 6 * 3 * 4);
  EXPECT_EQ(LatestCost().bytes_written, 6 * 16 * 4);
  b_.Add1(kRowDot, {x_, rows, plan_.slot_row});
  EXPECT_EQ(LatestCost().flops, 2 * 11 * 16);
}

}  // namespace
}  // namespace strata
