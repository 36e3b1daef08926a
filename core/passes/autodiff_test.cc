#include "core/passes/autodiff.h"

#include <vector>

#include "absl/status/status.h"
#include "core/cpu/elementwise.h"
#include "core/cpu/matmul.h"
#include "core/graph/builder.h"
#include "core/graph/graph.h"
#include "core/ops/elementwise.h"
#include "core/ops/gate_loss.h"
#include "core/ops/matmul.h"
#include "core/testing/grad_check.h"
#include "core/testing/status_matchers.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace strata {
namespace {

using ::testing::ElementsAre;

TEST(DifferentiateTest, SumsOverAllUsesOfAValue) {
  // x is used three times, once through itself squared.
  const auto build = [](GraphBuilder& b) -> std::vector<ValueId> {
    const ValueId x = b.Parameter("x", {Static(5), Static(5)});
    const ValueId w = b.Parameter("w", {Static(5), Static(5)});
    const ValueId y = Add(b, MatMul(b, x, x), Linear(b, x, w));
    return {Add(b, y, Scale(b, MatMul(b, y, w), 0.5))};
  };

  EXPECT_THAT(CheckGradients(
                  build, {RegisterMatMulKernels, RegisterElementwiseKernels}),
              IsOk());
}

TEST(DifferentiateTest, WeightGradientsFormASubgraphOfTheirOwn) {
  GraphBuilder b;
  const ValueId x = b.Input("x", DType::kF32, {Static(4), Static(8)});
  const ValueId w1 = b.Parameter("w1", {Static(8), Static(8)});
  const ValueId w2 = b.Parameter("w2", {Static(8), Static(8)});
  const ValueId y = Linear(b, Linear(b, x, w1), w2);
  const ValueId dy = b.Input("dy", DType::kF32, {Static(4), Static(8)});

  const auto gradients = Differentiate(b, {{y, dy}}, {w1, w2});

  ASSERT_THAT(gradients, IsOk());
  const Graph& graph = b.graph();
  ASSERT_EQ(gradients->size(), 2);
  for (const auto& [value, grad] : *gradients) {
    EXPECT_EQ(graph.node(graph.value(grad).producer).phase, Phase::kWeightGrad);
  }
  // One input gradient: through w2 to the inner layer. None by x itself.
  int num_input_grads = 0;
  for (const Node& node : graph.nodes()) {
    num_input_grads += node.phase == Phase::kInputGrad;
  }
  EXPECT_EQ(num_input_grads, 1);
  EXPECT_THAT(Verify(graph), IsOk());
}

TEST(DifferentiateTest, AValueThatTheLossDoesNotReadHasNoGradient) {
  GraphBuilder b;
  const ValueId x = b.Parameter("x", {Static(4), Static(8)});
  const ValueId unused = b.Parameter("unused", {Static(4)});
  const ValueId dy = b.Input("dy", DType::kF32, {Static(4), Static(8)});

  const auto gradients =
      Differentiate(b, {{Scale(b, x, 2.0), dy}}, {x, unused});

  ASSERT_THAT(gradients, IsOk());
  EXPECT_TRUE(gradients->contains(x));
  EXPECT_FALSE(gradients->contains(unused));
}

// Backward: y's node, then what reads w twice, then the first node.
TEST(DifferentiateTest, HandsOverAGradientAsSoonAsItIsWhole) {
  GraphBuilder b;
  const ValueId x = b.Parameter("x", {Static(4), Static(8)});
  const ValueId w = b.Parameter("w", {Static(8), Static(8)});
  const ValueId last = b.Parameter("last", {Static(8), Static(8)});
  const ValueId y = Linear(b, Linear(b, Linear(b, Scale(b, x, 2), w), w), last);
  const ValueId dy = b.Input("dy", DType::kF32, {Static(4), Static(8)});
  std::vector<ValueId> order;
  std::vector<NodeId> first_node_after;

  const auto gradients = Differentiate(
      b, {{y, dy}}, {x, w, last}, [&](ValueId value, ValueId grad) {
        order.push_back(value);
        first_node_after.push_back(b.graph().nodes().size());
        b.set_phase(Phase::kUpdate);
        b.Output(b.graph().value(value).name, Scale(b, grad, 3));
      });

  ASSERT_THAT(gradients, IsOk());
  EXPECT_THAT(order, ElementsAre(last, w, x));
  for (int i = 0; i < 3; ++i) {
    const ValueId grad = gradients->at(order[i]);
    EXPECT_LT(b.graph().value(grad).producer, first_node_after[i]);
  }
  EXPECT_LT(first_node_after[0], b.graph().value(gradients->at(w)).producer);
  EXPECT_LT(first_node_after[1], b.graph().value(gradients->at(x)).producer);
  EXPECT_THAT(b.Finish(), IsOk());
}

TEST(DifferentiateTest, AValueThatNoNodeReadsHasItsSeed) {
  GraphBuilder b;
  const ValueId x = b.Parameter("x", {Static(4)});
  const ValueId dx = b.Input("dx", DType::kF32, {Static(4)});

  const auto gradients = Differentiate(b, {{x, dx}}, {x});

  ASSERT_THAT(gradients, IsOk());
  EXPECT_EQ(gradients->at(x), dx);
}

TEST(DifferentiateTest, StopsAtOperatorsThatStopGradients) {
  GraphBuilder b;
  const ValueId x = b.Parameter("x", {Static(4), Static(8)});
  // The scores that teach the coarse stage learn nothing from it.
  const ValueId loss =
      CoarseDistill(b, b.Input("c", DType::kF32, {Static(4), Static(8)}), x,
                    b.Input("mask", DType::kU8, {Static(4), Static(8)}));
  const ValueId dloss = b.Input("dloss", DType::kF32, {});

  const auto gradients = Differentiate(b, {{loss, dloss}}, {x});

  ASSERT_THAT(gradients, IsOk());
  EXPECT_TRUE(gradients->empty());
}

}  // namespace
}  // namespace strata
