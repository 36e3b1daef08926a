#include "core/passes/bring_together.h"

#include <cstdint>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "core/graph/builder.h"
#include "core/graph/graph.h"
#include "core/graph/op_def.h"
#include "core/ops/elementwise.h"
#include "core/ops/fused_gate.h"
#include "core/ops/optimizer.h"
#include "core/passes/autodiff.h"
#include "core/testing/status_matchers.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace strata {
namespace {

using ::testing::ElementsAre;

constexpr int64_t kExperts = 3, kR = 2;
// F32 elements of a sum that is just small.
constexpr int64_t kSmall = kSmallSumBytes / 4;

class BringTogetherTest : public ::testing::Test {
 protected:
  ValueId OfExperts(const std::string& name) {
    return b_.Parameter(name, {Static(kExperts), Static(kR)});
  }

  // What gate `i` makes of parameters of its own.
  ExpertSide Gate(int i, ValueId embedding) {
    std::vector<ValueId> inputs = {embedding};
    for (int w = kContextQ; w <= kContextCrossO; ++w) {
      inputs.push_back(
          b_.Parameter(absl::StrCat("w", i, ".", w), {Static(kR), Static(kR)}));
    }
    return ExpertContext(b_, inputs, /*scale=*/1);
  }

  void Sum(const std::string& name, ValueId value) {
    const Dims dims = b_.type(value).dims;
    Accumulate(b_, b_.State(name, DType::kF32, dims), value, keep_);
  }

  // Finishes the graph; the numbers that its nodes had, in their new order.
  std::vector<NodeId> Order() {
    const auto graph = b_.Finish();
    EXPECT_THAT(graph, IsOk());
    const Graph ordered = BringTogether(*graph);
    EXPECT_THAT(Verify(ordered), IsOk());
    EXPECT_EQ(ordered.outputs().size(), graph->outputs().size());
    std::vector<NodeId> order;
    for (const Node& node : ordered.nodes()) {
      for (NodeId id = 0; id < static_cast<NodeId>(graph->nodes().size());
           ++id) {
        const Node& before = graph->node(id);
        if (before.op == node.op && before.inputs == node.inputs &&
            before.outputs == node.outputs) {
          order.push_back(id);
        }
      }
    }
    return order;
  }

  GraphBuilder b_;
  const ValueId keep_ = b_.Input("keep", DType::kF32, {});
};

// A loss over two gates, whose gradients are added up as a step does.
TEST_F(BringTogetherTest, GatesBeginItAndSmallSumsEndIt) {
  ValueId x = b_.Input("x", DType::kF32, {Static(kExperts), Static(kR)});
  std::vector<ValueId> parameters;
  for (int i = 0; i < 2; ++i) {  // Nodes 0 to 2, and 3 to 5.
    const ValueId e = OfExperts(absl::StrCat("e", i));
    parameters.push_back(e);
    const ExpertSide side = Gate(i, e);
    x = Add(b_, x, Add(b_, side.context, side.key));
  }
  ASSERT_THAT(Differentiate(b_,
                            {Seed{x, b_.Input("dx", DType::kF32,
                                              {Static(kExperts), Static(kR)})}},
                            parameters,
                            [&](ValueId value, ValueId grad) {
                              b_.set_phase(Phase::kUpdate);
                              Sum(absl::StrCat("grad", value), grad);
                            }),
              IsOk());
  // Adds have no nodes of gradients: these are of gates, and each gate's sum.
  ASSERT_EQ(b_.graph().nodes()[6].op, &kExpertContextGrad);
  ASSERT_EQ(b_.graph().nodes()[8].op, &kExpertContextGrad);
  b_.Output("y", Scale(b_, x, 2));  // 10

  EXPECT_THAT(Order(), ElementsAre(0, 3, 1, 2, 4, 5, 10, 6, 8, 7, 9));
}

TEST_F(BringTogetherTest, ALargeSumStays) {
  const ValueId small =
      b_.Input("small", DType::kF32, {Static(1), Static(kSmall)});
  const ValueId large =
      b_.Input("large", DType::kF32, {Static(1), Static(kSmall + 1)});
  Sum("a", small);
  Sum("b", large);
  Sum("c", small);
  b_.Output("y", Scale(b_, small, 2));

  EXPECT_THAT(Order(), ElementsAre(1, 3, 0, 2));
}

// A sum that is added to once more, or read; a gate whose embedding was made or
// is updated; the gradient of one whose weight is updated after it.
TEST_F(BringTogetherTest, WhatOthersWaitForStaysInItsPlace) {
  const ValueId x = b_.Input("x", DType::kF32, {Static(kExperts), Static(kR)});
  const ValueId e = OfExperts("e");
  Accumulate(b_, e, x, keep_);  // 0
  Gate(0, e);                   // 1
  Gate(1, Scale(b_, x, 2));     // 2, 3
  const ValueId sum = OfExperts("sum");
  Accumulate(b_, sum, x, keep_);      // 4
  b_.Output("y", Scale(b_, sum, 2));  // 5
  Accumulate(b_, sum, e, keep_);      // 6
  Gate(2, OfExperts("free"));         // 7

  EXPECT_THAT(Order(), ElementsAre(7, 0, 1, 2, 3, 4, 5, 6));
}

// Its gradient would read the weight as it is after the sum.
TEST_F(BringTogetherTest, AGradientStaysBeforeItsWeightIsChanged) {
  const ValueId dy =
      b_.Input("dy", DType::kF32, {Static(kExperts), Static(kR)});
  std::vector<ValueId> inputs = {dy, kNone, kNone, OfExperts("e")};
  for (int w = kContextQ; w <= kContextCrossO; ++w) {
    inputs.push_back(
        b_.Parameter(absl::StrCat("w", w), {Static(kR), Static(kR)}));
  }
  const std::vector<ValueId> grads =
      b_.Add(kExpertContextGrad, inputs, {{"scale", 1.0}});  // 0
  Accumulate(b_, inputs[4], grads[1], keep_);                // 1
  b_.Output("y", Scale(b_, inputs[4], 2));                   // 2
  Sum("grad", grads[0]);                                     // 3

  EXPECT_THAT(Order(), ElementsAre(0, 1, 2, 3));
}

}  // namespace
}  // namespace strata
