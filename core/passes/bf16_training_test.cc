#include "core/passes/bf16_training.h"

#include <algorithm>
#include <cstdint>
#include <map>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "core/graph/builder.h"
#include "core/graph/graph.h"
#include "core/ops/activation.h"
#include "core/ops/adamw_halves.h"
#include "core/ops/elementwise.h"
#include "core/ops/grouped_matmul.h"
#include "core/ops/matmul.h"
#include "core/ops/norm.h"
#include "core/ops/optimizer.h"
#include "core/ops/weight_grad_sum.h"
#include "core/passes/autodiff.h"
#include "core/tensor/dtype.h"
#include "core/testing/status_matchers.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace strata {
namespace {

using ::testing::ElementsAre;

constexpr int64_t kTokens = 4, kWidth = 16, kExperts = 2;

// y = Linear(SwiGlu(GroupedMatMul(RmsNorm(Linear(x, first)), experts)), layer)
struct Step {
  Graph model, gradients;
};

Step MakeStep() {
  GraphBuilder b;
  const ValueId count = b.Input("n", DType::kI32, {});
  const Dim rows = Ragged(kTokens, count);
  const ValueId first = b.Parameter("first", {Static(kWidth), Static(kWidth)});
  const ValueId x =
      Linear(b, b.Input("x", DType::kF32, {rows, Static(kWidth)}), first);
  const ValueId offset = b.Input("offset", DType::kI32, {Static(kExperts + 1)});
  const ValueId gain = b.Parameter("gain", {Static(kWidth)});
  const ValueId experts = b.Parameter(
      "experts", {Static(kExperts), Static(2 * kWidth), Static(kWidth)});
  const ValueId layer = b.Parameter("layer", {Static(kWidth), Static(kWidth)});
  const ValueId hidden =
      SwiGlu(b, GroupedMatMul(b, RmsNorm(b, x, gain, 1e-6), experts, offset));
  const ValueId y = Linear(b, hidden, layer);
  const ValueId seed = b.Input("dy", DType::kF32, {rows, Static(kWidth)});
  b.Output("y", y);
  auto model = b.Finish();
  EXPECT_THAT(model, IsOk());
  Step step;
  step.model = *model;
  GraphBuilder g(*std::move(model));
  const ValueId keep = g.Input("keep", DType::kF32, {});
  const auto accumulate = [&](ValueId parameter, ValueId grad) {
    const Value value = g.graph().value(parameter);
    Accumulate(g, g.State("grad." + value.name, DType::kF32, value.type.dims),
               grad, keep);
  };
  EXPECT_THAT(
      Differentiate(g, {{y, seed}}, {first, gain, experts, layer}, accumulate),
      IsOk());
  auto gradients = g.Finish();
  EXPECT_THAT(gradients, IsOk());
  step.gradients = *std::move(gradients);
  return step;
}

std::map<std::string, int> CountNodes(const Graph& graph) {
  std::map<std::string, int> count;
  for (const Node& node : graph.nodes()) ++count[std::string(node.op->name)];
  return count;
}

DType TypeOf(const Graph& graph, const std::string& source) {
  return graph.value(graph.FindSource(source)).type.dtype;
}

// Of the operator's first node.
DType ResultOf(const Graph& graph, const OpDef& op) {
  for (const Node& node : graph.nodes()) {
    if (node.op == &op) return graph.value(node.outputs[0]).type.dtype;
  }
  return DType::kU8;
}

TEST(Bf16TrainingTest, WeightsOfProductsAreNarrowAndGainsAreNot) {
  EXPECT_THAT(Bf16Weights(MakeStep().model),
              ElementsAre("experts", "first", "layer"));
}

TEST(Bf16TrainingTest, GradientsAreAddedWhereTheirSumsLie) {
  const Step step = MakeStep();
  std::map<std::string, int> before = CountNodes(step.gradients);
  ASSERT_EQ(before["Accumulate"], 4);
  ASSERT_EQ(before["GroupedWeightGrad"], 1);

  const Bf16Gradients narrow =
      GradientsInBf16(step.gradients, {"experts", "layer"});

  EXPECT_THAT(Verify(narrow.graph), IsOk());
  std::map<std::string, int> after = CountNodes(narrow.graph);
  EXPECT_EQ(after["Accumulate"], 2);  // The gain's, and that of `first`.
  EXPECT_EQ(after["SumWeightGrad"], 2);
  EXPECT_EQ(after["GroupedWeightGrad"], 0);
  EXPECT_EQ(after["MatMul"], before["MatMul"] - 1);
  EXPECT_EQ(TypeOf(narrow.graph, "grad.experts"), DType::kBF16);
  EXPECT_EQ(TypeOf(narrow.graph, "layer"), DType::kBF16);
  EXPECT_EQ(TypeOf(narrow.graph, "grad.gain"), DType::kF32);
  // Operators that have a say about types find nothing wrong with these.
  for (const Node& node : narrow.graph.nodes()) {
    if (node.op != &kSumWeightGrad) continue;
    EXPECT_THAT(
        node.op->infer({narrow.graph, node.inputs, {}, node.attrs}).status(),
        IsOk());
  }
}

TEST(Bf16TrainingTest, RowsAreNarrowWhereAllTakeThemSo) {
  const Step step = MakeStep();
  const Graph narrow =
      GradientsInBf16(step.gradients, {"experts", "layer"}).graph;
  EXPECT_EQ(ResultOf(narrow, kRmsNorm), DType::kBF16);
  EXPECT_EQ(ResultOf(narrow, kGroupedMatMul), DType::kBF16);
  EXPECT_EQ(ResultOf(narrow, kSwiGlu), DType::kBF16);
  EXPECT_EQ(ResultOf(narrow, kSwiGluGrad), DType::kBF16);
  EXPECT_EQ(ResultOf(narrow, kRmsNormInputGrad), DType::kBF16);
  // The caller reads y.
  EXPECT_EQ(narrow.value(narrow.outputs().at("y")).type.dtype, DType::kF32);
  // Gains are F32, and so are their gradients.
  EXPECT_EQ(ResultOf(narrow, kRmsNormWeightGrad), DType::kF32);
}

TEST(Bf16TrainingTest, WhatOperatorsAddWhereTheyStoreMayBeNarrow) {
  for (const int a : {4, 5}) {
    EXPECT_TRUE(TakesBf16("CombineRows", /*is_output=*/false, a));
    EXPECT_TRUE(TakesBf16("RmsNormInputGrad", /*is_output=*/false, a));
  }
  EXPECT_TRUE(TakesBf16("FedNorm", /*is_output=*/true, 0));
  EXPECT_FALSE(TakesBf16("FedNorm", /*is_output=*/false, 0));
  EXPECT_TRUE(TakesBf16("FedNormInputGrad", /*is_output=*/false, 7));
  EXPECT_TRUE(TakesBf16("FedNormInputGrad", /*is_output=*/true, 1));
  EXPECT_TRUE(TakesBf16("FedNormWeightGrad", /*is_output=*/false, 0));
}

TEST(Bf16TrainingTest, ValuesAreFoundAgain) {
  const Step step = MakeStep();
  const Bf16Gradients narrow =
      GradientsInBf16(step.gradients, {"experts", "layer"});
  ASSERT_EQ(narrow.value.size(), step.gradients.values().size());
  int gone = 0;
  for (size_t id = 0; id < narrow.value.size(); ++id) {
    if (narrow.value[id] == kNone) {
      ++gone;
      continue;
    }
    const Value& was = step.gradients.value(static_cast<ValueId>(id));
    const Value& is = narrow.graph.value(narrow.value[id]);
    EXPECT_EQ(was.name, is.name);
    EXPECT_EQ(was.type.rank(), is.type.rank());
  }
  EXPECT_EQ(gone, 2);
}

TEST(Bf16TrainingTest, SumsOfWeightsInHalvesAreWide) {
  const Step step = MakeStep();
  const Graph halves = GradientsInBf16(step.gradients, {"experts", "layer"},
                                       WeightState::kHalves)
                           .graph;
  EXPECT_THAT(Verify(halves), IsOk());
  EXPECT_EQ(CountNodes(halves)["SumWeightGrad"], 2);
  EXPECT_EQ(TypeOf(halves, "experts"), DType::kBF16);
  EXPECT_EQ(TypeOf(halves, "grad.experts"), DType::kF32);
  EXPECT_EQ(ResultOf(halves, kGroupedMatMul), DType::kBF16);
}

// AdamW of "w" and "other".
Graph MakeUpdate() {
  GraphBuilder b;
  const Dims dims = {Static(3), Static(5)};
  const ValueId scalar = b.Input("scalar", DType::kF32, {});
  const ValueId step = b.Input("step", DType::kI32, {});
  for (const std::string name : {"w", "other"}) {
    AdamW(b, b.Parameter(name, dims),
          b.State("adam.m." + name, DType::kF32, dims),
          b.State("adam.v." + name, DType::kF32, dims),
          b.State("grad." + name, DType::kF32, dims), scalar, scalar, scalar,
          step, AdamWOptions());
  }
  auto graph = b.Finish();
  EXPECT_THAT(graph, IsOk());
  return *std::move(graph);
}

TEST(Bf16TrainingTest, AWeightInHalvesHasTheOther) {
  const Graph halves = UpdateInBf16(MakeUpdate(), {"w"}, WeightState::kHalves);

  EXPECT_THAT(Verify(halves), IsOk());
  EXPECT_EQ(TypeOf(halves, "w"), DType::kBF16);
  EXPECT_EQ(TypeOf(halves, "low.w"), DType::kI16);
  EXPECT_EQ(TypeOf(halves, "other"), DType::kF32);
  for (const std::string prefix : {"grad.", "adam.m.", "adam.v."}) {
    EXPECT_EQ(TypeOf(halves, prefix + "w"), DType::kF32);
  }
  EXPECT_EQ(halves.FindSource("low.other"), kNone);
  std::map<std::string, int> count = CountNodes(halves);
  EXPECT_EQ(count["AdamW"], 1);
  EXPECT_EQ(count["AdamWHalves"], 1);
  for (const Node& node : halves.nodes()) {
    EXPECT_THAT(node.op->infer({halves, node.inputs, {}, node.attrs}).status(),
                IsOk());
    EXPECT_EQ(std::vector<int>(node.mutates.begin(), node.mutates.end()),
              node.op->mutates);
  }
}

TEST(Bf16TrainingTest, TheUpdatesMomentsFollowTheirWeight) {
  const Graph narrow = UpdateInBf16(MakeUpdate(), {"w"});

  for (const std::string prefix : {"", "grad.", "adam.m.", "adam.v."}) {
    EXPECT_EQ(TypeOf(narrow, prefix + "w"), DType::kBF16);
    EXPECT_EQ(TypeOf(narrow, prefix + "other"), DType::kF32);
  }
  EXPECT_EQ(TypeOf(narrow, "scalar"), DType::kF32);
  EXPECT_THAT(Verify(narrow), IsOk());
}

}  // namespace
}  // namespace strata
