#include "core/ops/gate.h"

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "core/graph/builder.h"
#include "core/graph/graph.h"
#include "core/graph/op_def.h"
#include "core/ops/gate_loss.h"
#include "core/ops/gate_select.h"
#include "core/passes/autodiff.h"
#include "core/testing/status_matchers.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace strata {
namespace {

using ::testing::HasSubstr;

constexpr auto kInvalid = absl::StatusCode::kInvalidArgument;

// A gate's operands: t of at most 10 tokens, 8 experts, 12 columns, 3 choices.
class GateTest : public testing::Test {
 protected:
  ValueId Float(Dims dims) { return b_.Input(Next(), DType::kF32, dims); }
  ValueId Int(Dims dims) { return b_.Input(Next(), DType::kI32, dims); }
  ValueId Byte(Dims dims) { return b_.Input(Next(), DType::kU8, dims); }
  std::string Next() { return "in" + std::to_string(num_inputs_++); }

  // The cost of the latest node if six tokens come.
  Cost LatestCost() {
    return CostOf(b_.graph(), b_.graph().nodes().back(),
                  [](ValueId, int64_t) { return 6.0; });
  }
  std::string Text(ValueId value) { return ToText(b_.graph(), b_.type(value)); }

  GraphBuilder b_{DType::kF32};
  int num_inputs_ = 0;
  const ValueId count_ = b_.Input("t", DType::kI32, {});
  const Dim t_ = Ragged(10, count_);
  const Dim e_ = Static(8);
  const ValueId x_ = b_.Input("x", DType::kF32, {t_, Static(12)});
  const ValueId p_ = b_.Input("p", DType::kF32, {t_, e_});
  const ValueId mask_ = b_.Input("mask", DType::kU8, {t_, e_});
  const ValueId bias_ = b_.State("bias", DType::kF32, {e_});
  const ValueId expert_ = b_.Input("expert", DType::kI32, {t_, Static(3)});
};

TEST_F(GateTest, InfersTheTypesOfTheChain) {
  const Selection selection = AdaptiveSelect(b_, p_, mask_, bias_, {});

  EXPECT_EQ(Text(EnergySignature(b_, x_, 4)), "F32[t<=10, 4]");
  EXPECT_EQ(Text(CoarseFilter(b_, p_, bias_, 4)), "U8[t<=10, 8]");
  EXPECT_EQ(Text(selection.expert), "I32[t<=10, 4]");
  EXPECT_EQ(Text(selection.stay), "U8[t<=10]");
  EXPECT_EQ(Text(TopKSelect(b_, p_, kNone, {})), "I32[t<=10, 2]");
  EXPECT_EQ(Text(SelectedWeight(b_, p_, expert_, {true, 0, 1})),
            "F32[t<=10, 3]");
  EXPECT_EQ(Text(CoarseDistill(b_, p_, p_, mask_)), "F32[]");
  EXPECT_EQ(Text(ExpectedCost(b_, p_, mask_)), "F32[]");
  EXPECT_THAT(b_.Finish(), IsOk());
}

// --- Errors ---

TEST_F(GateTest, EnergySignatureWantsEqualSlices) {
  EnergySignature(b_, x_, 5);
  EXPECT_THAT(
      b_.status(),
      StatusIs(kInvalid, HasSubstr("groups is 5; want a divisor of 12")));
}

TEST_F(GateTest, EnergySignatureWantsRows) {
  EnergySignature(b_, bias_, 2);
  EXPECT_THAT(b_.status(),
              StatusIs(kInvalid, HasSubstr("x is F32[8]; want floating point "
                                           "of rank 2")));
}

TEST_F(GateTest, CoarseFilterWantsABiasAnExpert) {
  CoarseFilter(b_, x_, bias_, 4);
  EXPECT_THAT(b_.status(),
              StatusIs(kInvalid, HasSubstr("bias is F32[8]; want F32[12]")));
}

TEST_F(GateTest, CoarseFilterKeepsOneToAll) {
  CoarseFilter(b_, p_, bias_, 9);
  EXPECT_THAT(b_.status(),
              StatusIs(kInvalid, HasSubstr("keep is 9; want 1 to 8")));
}

TEST_F(GateTest, AdaptiveSelectWantsItsMask) {
  AdaptiveSelect(b_, p_, Byte({t_, Static(7)}), bias_, {});
  EXPECT_THAT(
      b_.status(),
      StatusIs(kInvalid, HasSubstr("mask is U8[t<=10, 7]; want U8[t<=10, 8]")));
}

TEST_F(GateTest, AdaptiveSelectWantsSaneOptions) {
  struct Case {
    AdaptiveSelectOptions options;
    std::string message;
  };
  const Case cases[] = {
      {{0.7, 1, 9, 0}, "k_max is 9; want 1 to 8"},
      {{0.7, 0, 4, 0}, "k_min is 0; want 1 to 4"},
      {{0.7, 5, 4, 0}, "k_min is 5; want 1 to 4"},
      {{0.0, 1, 4, 0}, "tau is 0; want more than 0, at most 1"},
      {{1.01, 1, 4, 0}, "tau is 1.01; want more than 0, at most 1"},
      {{0.7, 1, 4, 1.5}, "exit_threshold is 1.5; want 0 to 1"},
  };
  for (const Case& c : cases) {
    GraphBuilder b(b_.graph());
    AdaptiveSelect(b, p_, mask_, bias_, c.options);
    EXPECT_THAT(b.status(), StatusIs(kInvalid, HasSubstr(c.message)));
  }
}

TEST_F(GateTest, TopKSelectWantsWhatTheGroupsHold) {
  struct Case {
    TopKOptions options;
    std::string message;
  };
  const Case cases[] = {
      {{9, 1, 1}, "k is 9; want 1 to 8"},
      {{5, 4, 2}, "k is 5; want 1 to 4"},
      {{2, 3, 1}, "num_groups is 3; want a divisor of 8"},
      {{2, 4, 5}, "top_groups is 5; want 1 to 4"},
  };
  for (const Case& c : cases) {
    GraphBuilder b(b_.graph());
    TopKSelect(b, p_, bias_, c.options);
    EXPECT_THAT(b.status(), StatusIs(kInvalid, HasSubstr(c.message)));
  }
}

TEST_F(GateTest, SelectedWeightWantsAChoiceForEachToken) {
  SelectedWeight(b_, p_, Int({Static(10), Static(3)}), {false, 0, 1});
  EXPECT_THAT(b_.status(),
              StatusIs(kInvalid, HasSubstr("expert is I32[10, 3]; want "
                                           "I32[t<=10, 3]")));
}

TEST_F(GateTest, LossesWantScoresOfOneShape) {
  CoarseDistill(b_, x_, p_, mask_);
  EXPECT_THAT(b_.status(), StatusIs(kInvalid, HasSubstr("p is F32[t<=10, 8]")));
}

TEST_F(GateTest, ExpertChoiceTakesOneToAllExpertsAToken) {
  ExpertChoice(b_, p_, 9);
  EXPECT_THAT(b_.status(),
              StatusIs(kInvalid, HasSubstr("k is 9; want 1 to 8")));
}

TEST_F(GateTest, BalancedSelectTakesOneToAllExpertsAToken) {
  for (const int64_t k : {0, 9}) {
    GraphBuilder b(b_.graph());
    BalancedSelect(b, p_, k);
    EXPECT_THAT(b.status(),
                StatusIs(kInvalid,
                         HasSubstr(absl::StrCat("k is ", k, "; want 1 to 8"))));
  }
}

TEST_F(GateTest, CarryWeightWantsOneCarryAToken) {
  CarryWeight(b_, p_, x_);
  EXPECT_THAT(b_.status(), StatusIs(kInvalid, HasSubstr("carry is")));
}

TEST_F(GateTest, BalanceLossWantsAChoiceForEachToken) {
  BalanceLoss(b_, p_, Int({Static(3), Static(2)}), kNone);
  EXPECT_THAT(b_.status(), StatusIs(kInvalid, HasSubstr("expert is")));
}

TEST_F(GateTest, SignBiasWantsARateOfAtLeastZero) {
  SignBias(b_, Int({Static(9)}), b_.State("sign_bias", DType::kF32, {e_}), -1);
  EXPECT_THAT(b_.status(),
              StatusIs(kInvalid, HasSubstr("rate is -1; want at least 0")));
}

TEST_F(GateTest, LoadBiasWantsOneOffsetMoreThanExperts) {
  LoadBias(b_, Int({e_}), bias_, bias_, bias_, {});
  EXPECT_THAT(b_.status(),
              StatusIs(kInvalid, HasSubstr("offset is I32[8]; want I32[9]")));
}

TEST_F(GateTest, LoadBiasWantsADecayBelowOne) {
  LoadBiasOptions options;
  options.ema_decay = 1;
  LoadBias(b_, Int({Static(9)}), bias_, bias_, bias_, options);
  EXPECT_THAT(b_.status(), StatusIs(kInvalid, HasSubstr("ema_decay is 1")));
}

TEST_F(GateTest, MissingOperandsAreNamed) {
  ExpectedCost(b_, p_, kNone);
  EXPECT_THAT(b_.status(), StatusIs(kInvalid, HasSubstr("mask is missing")));
}

// --- Costs, of six tokens ---

TEST_F(GateTest, CountsOperationsOfTheTokensThatCome) {
  EnergySignature(b_, x_, 4);
  EXPECT_EQ(LatestCost().flops, 6 * (2 * 12 + 2 * 4));
  CoarseFilter(b_, p_, bias_, 4);
  EXPECT_EQ(LatestCost().flops, 6 * 8 * 2);
  AdaptiveSelect(b_, p_, mask_, bias_, {});
  EXPECT_EQ(LatestCost().flops, 6 * 8 * 4);
  TopKSelect(b_, p_, kNone, {});
  EXPECT_EQ(LatestCost().flops, 6 * 8);
  TopKSelect(b_, p_, bias_, {2, 2, 1});
  EXPECT_EQ(LatestCost().flops, 6 * 8 * 3);
  BalancedSelect(b_, p_, 3);
  EXPECT_EQ(LatestCost().flops, 0);
  EXPECT_EQ(LatestCost().bytes_read, 0);
  EXPECT_EQ(LatestCost().bytes_written, 6 * 3 * 4);
  SelectedWeight(b_, p_, expert_, {true, 0, 1});
  EXPECT_EQ(LatestCost().flops, 6 * 3 * 3);
  CoarseDistill(b_, p_, p_, mask_);
  EXPECT_EQ(LatestCost().flops, 6 * 8 * 7);
  ExpectedCost(b_, p_, mask_);
  EXPECT_EQ(LatestCost().flops, 6 * 8);
}

TEST_F(GateTest, SelectedWeightReadsOnlyTheChosenScores) {
  SelectedWeight(b_, p_, expert_, {false, 0, 1});
  EXPECT_EQ(LatestCost().bytes_read, 6 * 3 * (4 + 4));
  EXPECT_EQ(LatestCost().bytes_written, 6 * 3 * 4);
}

// --- Gradients ---

TEST_F(GateTest, StopsGradientsWhereTheGateMustNotLearn) {
  // The fine score teaches the coarse one, not the other way round.
  const ValueId c = Float({t_, e_});
  const ValueId loss = CoarseDistill(b_, c, p_, mask_);
  const absl::StatusOr<Gradients> coarse =
      Differentiate(b_, {{loss, Float({})}}, {c, p_});
  ASSERT_THAT(coarse, IsOk());
  EXPECT_TRUE(coarse->contains(c));
  EXPECT_FALSE(coarse->contains(p_));
}

}  // namespace
}  // namespace strata
