#include "cuda/runtime/together.h"

#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "core/graph/builder.h"
#include "core/graph/graph.h"
#include "core/ops/elementwise.h"
#include "core/ops/fused_gate.h"
#include "core/ops/optimizer.h"
#include "core/passes/bring_together.h"
#include "core/testing/status_matchers.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace strata::gpu {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;
using ::testing::SizeIs;

class TogetherTest : public ::testing::Test {
 protected:
  ValueId State(const std::string& name) {
    return b_.State(name, DType::kF32, {Static(4)});
  }

  // A node of AdamW of a parameter of that name, by a gradient.
  void Step(const std::string& name, double weight_decay, ValueId grad) {
    AdamWOptions options;
    options.weight_decay = weight_decay;
    AdamW(b_, b_.Parameter(name, {Static(4)}), State("m." + name),
          State("v." + name), grad, scalar_, scalar_, scalar_, step_, options);
  }
  void Step(const std::string& name, double weight_decay) {
    Step(name, weight_decay, State("grad." + name));
  }

  std::vector<NodesTogether> Find() {
    const auto graph = b_.Finish();
    EXPECT_THAT(graph, IsOk());
    return FindTogether(*graph);
  }

  GraphBuilder b_;
  const ValueId scalar_ = b_.Input("scalar", DType::kF32, {});
  const ValueId step_ = b_.Input("step", DType::kI32, {});
};

TEST_F(TogetherTest, NeighboursAreCallsByTheirAttributes) {
  for (int i = 0; i < 5; ++i) {
    Step(absl::StrCat("w", i), i % 2 == 0 ? 0.1 : 0);
  }
  const std::vector<NodesTogether> all = Find();
  ASSERT_THAT(all, SizeIs(1));
  EXPECT_EQ(all[0].first, 0);
  EXPECT_EQ(all[0].end, 5);
  EXPECT_THAT(all[0].calls,
              ElementsAre(ElementsAre(0, 2, 4), ElementsAre(1, 3)));
}

TEST_F(TogetherTest, OneNodeIsNoCompany) {
  Step("w", 0.1);
  EXPECT_THAT(Find(), IsEmpty());
}

TEST_F(TogetherTest, AnotherOperatorParts) {
  Step("a", 0.1);
  Step("b", 0.1);
  b_.Output("one", strata::Fill(b_, 1));
  Step("c", 0.1);
  Step("d", 0.1);
  const std::vector<NodesTogether> all = Find();
  ASSERT_THAT(all, SizeIs(2));
  EXPECT_EQ(all[1].first, 3);
  EXPECT_THAT(all[1].calls, ElementsAre(ElementsAre(3, 4)));
}

// "b" reads what "a" updates; "d" updates what "c" reads.
TEST_F(TogetherTest, WhatDependsOnANodeComesAfterIt) {
  Step("a", 0.1);
  Step("b", 0.1, b_.graph().FindSource("m.a"));
  Step("c", 0.1);
  AdamW(b_, b_.Parameter("d", {Static(4)}), b_.graph().FindSource("grad.c"),
        State("v.d"), State("grad.d"), scalar_, scalar_, scalar_, step_,
        AdamWOptions());
  const std::vector<NodesTogether> all = Find();
  ASSERT_THAT(all, SizeIs(1));
  EXPECT_EQ(all[0].first, 1);
  EXPECT_THAT(all[0].calls, ElementsAre(ElementsAre(1, 2)));
}

// Two gates forward and backward, and sums of what comes of it: each kind in
// one call, and what reads a result of a run in the next.
TEST_F(TogetherTest, GatesAndSmallSumsAreCalls) {
  const Dims of_experts = {Static(3), Static(2)};
  std::vector<std::vector<ValueId>> gates;
  for (int i = 0; i < 2; ++i) {
    std::vector<ValueId> inputs = {
        b_.Parameter(absl::StrCat("e", i), of_experts)};
    for (int w = kContextQ; w <= kContextCrossO; ++w) {
      inputs.push_back(
          b_.Parameter(absl::StrCat("w", i, ".", w), {Static(2), Static(2)}));
    }
    gates.push_back(inputs);
    ExpertContext(b_, inputs, /*scale=*/1);
  }
  const ValueId dy = b_.Input("dy", DType::kF32, of_experts);
  std::vector<ValueId> grads;
  for (std::vector<ValueId> inputs : gates) {
    inputs.insert(inputs.begin(), {dy, dy, dy});
    grads.push_back(b_.Add(kExpertContextGrad, inputs, {{"scale", 1.0}})[0]);
  }
  const auto sum = [&](const std::string& name, ValueId value, ValueId keep) {
    const Dims dims = b_.type(value).dims;
    Accumulate(b_, b_.State(name, DType::kF32, dims), value, keep);
  };
  sum("a", grads[0], scalar_);
  sum("b", grads[1], scalar_);
  const ValueId large = b_.Input("large", DType::kF32,
                                 {Static(kSmallSumBytes / 4 + 1), Static(1)});
  sum("c", large, scalar_);
  sum("d", dy, scalar_);
  sum("e", dy, b_.Input("keep", DType::kF32, {}));

  const std::vector<NodesTogether> all = Find();
  ASSERT_THAT(all, SizeIs(3));
  EXPECT_THAT(all[0].calls, ElementsAre(ElementsAre(0, 1), ElementsAre(2, 3)));
  EXPECT_THAT(all[1].calls, ElementsAre(ElementsAre(4, 5)));
  EXPECT_EQ(all[2].first, 7);
  EXPECT_THAT(all[2].calls, ElementsAre(ElementsAre(7), ElementsAre(8)));
}

}  // namespace
}  // namespace strata::gpu
