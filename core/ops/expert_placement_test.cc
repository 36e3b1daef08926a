#include "core/ops/expert_placement.h"

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

// 6 experts in 8 slots of 2 ranks; rows of 3 x 5 floats.
class ExpertPlacementTest : public ::testing::Test {
 protected:
  Cost LatestCost() {
    return CostOf(b_.graph(), b_.graph().nodes().back(), Binding());
  }

  GraphBuilder b_{DType::kF32};
  const ValueId table_ = b_.State("table", DType::kI32, {Static(8)});
  const SlotTable slots_ = {table_, /*experts=*/6, /*ranks=*/2};
  const ValueId grad_ =
      b_.State("grad", DType::kF32, {Static(4), Static(3), Static(5)});
  const ValueId divisor_ = b_.Input("divisor", DType::kF32, {});
};

TEST_F(ExpertPlacementTest, ChoicesOfSlotsAreAsManyAsOfExperts) {
  const ValueId t = b_.Input("t", DType::kI32, {});
  const ValueId expert =
      b_.Input("expert", DType::kI32, {Ragged(10, t), Static(3)});
  const ValueId slot = PlaceChoices(b_, expert, slots_);
  ASSERT_THAT(b_.status(), IsOk());
  EXPECT_EQ(ToText(b_.graph(), b_.type(slot)), "I32[t<=10, 3]");
}

TEST_F(ExpertPlacementTest, TheNormReadsGradientsAndSendsANumberASlot) {
  ExpertNorm(b_, {grad_, grad_}, divisor_, slots_, "ep");
  ASSERT_THAT(b_.status(), IsOk());
  const Cost cost = LatestCost();
  EXPECT_EQ(cost.flops, 2 * 2 * 60);
  EXPECT_EQ(cost.bytes_read, 2 * 60 * 4 + 8 * 4 + 4);
  EXPECT_EQ(cost.bytes_on_wire, 8 * 8);
}

// Two of eight slots are beyond the experts' first: of each a row is sent and
// one received, of four rows a rank.
TEST_F(ExpertPlacementTest, SumsSendWhatSpareSlotsHave) {
  SumCopies(b_, {grad_}, slots_, "ep");
  ASSERT_THAT(b_.status(), IsOk());
  EXPECT_EQ(LatestCost().bytes_on_wire, 2 * 2 / 8.0 * 60 * 4);
}

TEST_F(ExpertPlacementTest, WantsSlotsThatRanksShareAndRowsOfThem) {
  const auto error = [&](const SlotTable& slots, ValueId grad) {
    GraphBuilder b(b_.graph(), DType::kF32);
    ExpertNorm(b, {grad}, divisor_, slots, "ep");
    return b.status();
  };
  const auto invalid = [](const char* what) {
    return StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr(what));
  };
  EXPECT_THAT(error({table_, 9, 2}, grad_), invalid("there are 8 slots"));
  EXPECT_THAT(error({table_, 6, 3}, grad_), invalid("a multiple of ranks = 3"));
  EXPECT_THAT(error({table_, 6, 4}, grad_), invalid("want 2 rows of floats"));
  EXPECT_THAT(error({table_, 6, 0}, grad_), invalid("ranks is 0"));
  EXPECT_THAT(error({grad_, 6, 2}, grad_), invalid("table is F32"));
  EXPECT_THAT(error(slots_, table_), invalid("gradient 0 is I32[8]"));
}

}  // namespace
}  // namespace strata
