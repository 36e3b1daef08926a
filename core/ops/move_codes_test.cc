#include "core/ops/move_codes.h"

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

// Three matrices of 2 x 64, in groups of 32.
class MoveCodesTest : public testing::Test {
 protected:
  // The node, its operands as they should be but for what a test changed.
  void Add() {
    CodeStates states;
    states.position = b_.State("position", DType::kF32, like_);
    states.scale = b_.State("scale", DType::kF32, groups_);
    states.zero = b_.State("zero", DType::kF32, groups_);
    states.moments =
        b_.State("moments", DType::kF32, {groups_[0], groups_[1], moments_});
    states.bits = b_.State("bits", DType::kI32, {matrices_});
    MoveCodes(b_, b_.Parameter("w", {Static(3), Static(2), Static(64)}),
              b_.Input("gradient", DType::kF32, like_), states,
              b_.Input("lr", DType::kF32, {}),
              b_.Input("step", DType::kI32, {}), options_);
  }
  void ExpectError(const char* text) {
    Add();
    EXPECT_THAT(b_.status(),
                StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr(text)));
  }

  GraphBuilder b_{DType::kF32};
  Dims like_ = {Static(3), Static(2), Static(64)};
  Dims groups_ = {Static(6), Static(2)};
  Dim moments_ = Static(4);
  Dim matrices_ = Static(3);
  MoveCodesOptions options_;
};

TEST_F(MoveCodesTest, UpdatesStateInItsOwnPhase) {
  const Phase phase = b_.phase();
  Add();
  ASSERT_THAT(b_.status(), IsOk());
  EXPECT_EQ(b_.phase(), phase);
  const Node& node = b_.graph().nodes().back();
  EXPECT_EQ(node.phase, Phase::kUpdate);
  EXPECT_TRUE(node.outputs.empty());
  const Cost cost = CostOf(b_.graph(), node, nullptr);
  EXPECT_EQ(cost.flops, 10 * 3 * 2 * 64);
}

TEST_F(MoveCodesTest, ARowMayBeOneGroup) {
  options_.group = 0;
  groups_[1] = Static(1);
  Add();
  EXPECT_THAT(b_.status(), IsOk());
}

TEST_F(MoveCodesTest, WantsGroupsThatDivideTheColumns) {
  options_.group = 128;
  ExpectError("want rows of whole groups of 128 columns");
}

TEST_F(MoveCodesTest, WantsAScaleAGroup) {
  groups_[1] = Static(1);
  ExpectError("scale is F32[6, 1]; want F32[6, 2]");
}

TEST_F(MoveCodesTest, WantsFourMomentsAGroup) {
  moments_ = Static(2);
  ExpectError("moments is F32[6, 2, 2]; want F32[6, 2, 4]");
}

TEST_F(MoveCodesTest, WantsWholeMatrices) {
  matrices_ = Static(4);
  ExpectError("bits are of 4 matrices; want as many as divide the 6 rows");
}

TEST_F(MoveCodesTest, WantsPositionsLikeTheParameter) {
  like_[2] = Static(32);
  ExpectError("want F32[3, 2, 64]");
}

}  // namespace
}  // namespace strata
