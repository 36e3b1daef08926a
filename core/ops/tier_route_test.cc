#include "core/ops/tier_route.h"

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "core/graph/builder.h"
#include "core/graph/graph.h"
#include "core/graph/op_def.h"
#include "core/passes/autodiff.h"
#include "core/tensor/dtype.h"
#include "core/testing/status_matchers.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace strata {
namespace {

using ::testing::HasSubstr;

constexpr auto kInvalid = absl::StatusCode::kInvalidArgument;

// At most 10 tokens of 8 energies in 4 groups and a query of 4; 8 experts, of
// which half are left and three chosen.
class TierRouteTest : public testing::Test {
 protected:
  TierRouteTest() {
    options_.groups = 4;
    options_.keep = 4;
    options_.k_max = 3;
  }

  ValueId Weight(const std::string& name, int64_t rows, int64_t columns) {
    return b_.Parameter(name, {Static(rows), Static(columns)});
  }
  TierRouteResult Route() {
    return TierRoute(b_, token_, key_, bias_, experts_, options_);
  }
  std::string Text(ValueId value) { return ToText(b_.graph(), b_.type(value)); }
  // The cost of the latest node if six tokens come.
  Cost LatestCost() {
    return CostOf(b_.graph(), b_.graph().nodes().back(),
                  [](ValueId, int64_t) { return 6.0; });
  }

  GraphBuilder b_{DType::kF32};
  const Dim t_ = Ragged(10, b_.Input("t", DType::kI32, {}));
  ValueId token_ = b_.Input("token", DType::kF32, {t_, Static(12)});
  ValueId key_ = Weight("key", 8, 4);
  ValueId bias_ = b_.State("bias", DType::kF32, {Static(8)});
  ExpertSide experts_ = {Weight("experts", 8, 4), Weight("expert_key", 8, 4),
                         Weight("expert_value", 8, 4)};
  TierGateOptions options_;
};

TEST_F(TierRouteTest, InfersChoicesWeightsAndLosses) {
  const TierRouteResult route = Route();
  ASSERT_THAT(b_.status(), IsOk());
  EXPECT_EQ(Text(route.expert), "I32[t<=10, 3]");
  EXPECT_EQ(Text(route.weight), "F32[t<=10, 3]");
  EXPECT_EQ(Text(route.distill), "F32[]");
  EXPECT_EQ(Text(route.cost), "F32[]");
  EXPECT_EQ(Text(route.balance), "F32[]");
}

TEST_F(TierRouteTest, OneNodeGivesBackAllThatIsLearned) {
  const TierRouteResult route = Route();
  ASSERT_THAT(b_.status(), IsOk());
  const std::vector<ValueId> wanted = {token_, key_, experts_.context,
                                       experts_.key, experts_.value};
  const size_t before = b_.graph().nodes().size();

  const auto gradients = Differentiate(
      b_, {{route.balance, b_.Input("d", DType::kF32, {})}}, wanted);

  ASSERT_THAT(gradients, IsOk());
  ASSERT_EQ(b_.graph().nodes().size(), before + 1);
  const Node& node = b_.graph().nodes().back();
  EXPECT_EQ(node.op, &kTierRouteGrad);
  EXPECT_EQ(node.inputs[kRouteGradWeight], kNone);  // Nothing reads weights.
  for (const ValueId id : wanted) {
    EXPECT_EQ(Text(gradients->at(id)), Text(id));
  }
}

// A token: 8 energies squared and added (16), 4 roots and products (8), coarse
// scores (2 x 4 x 8 = 64), three products of 4 with 8 experts (192), the query
// added (4), and 36 an expert (288): 572. The gradient is three times that.
TEST_F(TierRouteTest, CostsWhatItStandsFor) {
  const TierRouteResult route = Route();
  ASSERT_THAT(b_.status(), IsOk());
  EXPECT_EQ(LatestCost().flops, 6 * 572);
  ASSERT_THAT(
      Differentiate(b_, {{route.cost, b_.Input("d", DType::kF32, {})}}, {key_}),
      IsOk());
  EXPECT_EQ(LatestCost().flops, 3 * 6 * 572);
}

TEST_F(TierRouteTest, WantsGroupsThatDivideEnergies) {
  options_.groups = 3;
  key_ = Weight("key3", 8, 3);
  Route();
  EXPECT_THAT(b_.status(),
              StatusIs(kInvalid, HasSubstr("token has 12 columns; want 4 more "
                                           "than a multiple of 3 groups")));
}

TEST_F(TierRouteTest, WantsAsManyKeysAsExperts) {
  key_ = Weight("key7", 7, 4);
  Route();
  EXPECT_THAT(b_.status(), StatusIs(kInvalid, HasSubstr("experts is F32[8, 4]; "
                                                        "want F32[7, 4]")));
}

TEST_F(TierRouteTest, LetsNoTokenLeave) {
  options_.exit_threshold = 0.1;
  Route();
  EXPECT_THAT(b_.status(), StatusIs(kInvalid, HasSubstr("exit_threshold")));
}

TEST_F(TierRouteTest, WantsNoMoreChoicesThanExperts) {
  options_.k_max = 9;
  Route();
  EXPECT_THAT(b_.status(), StatusIs(kInvalid, HasSubstr("k_max is 9")));
}

}  // namespace
}  // namespace strata
