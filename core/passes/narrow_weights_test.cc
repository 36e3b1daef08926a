#include "core/passes/narrow_weights.h"

#include <string>
#include <utility>

#include "core/graph/builder.h"
#include "core/graph/graph.h"
#include "core/ops/elementwise.h"
#include "core/ops/embedding.h"
#include "core/ops/grouped_matmul.h"
#include "core/ops/matmul.h"
#include "core/ops/norm.h"
#include "core/tensor/dtype.h"
#include "core/testing/status_matchers.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace strata {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;

constexpr int64_t kTokens = 3, kWidth = 8, kVocab = 5, kExperts = 2;

ValueId Table(GraphBuilder& b) {
  return b.Parameter("table", {Static(kVocab), Static(kWidth)});
}
ValueId Rows(GraphBuilder& b) {
  return b.Input("x", DType::kF32, {Static(kTokens), Static(kWidth)});
}
ValueId Ids(GraphBuilder& b) {
  return b.Input("ids", DType::kI32, {Static(kTokens)});
}
Graph Finish(GraphBuilder& b) {
  auto graph = b.Finish();
  EXPECT_THAT(graph, IsOk());
  return *std::move(graph);
}

TEST(NarrowWeightsTest, FindsLayersExpertsAndTables) {
  GraphBuilder b;
  const ValueId h = Embedding(b, Table(b), Ids(b));
  const ValueId gain = b.Parameter("gain", {Static(kWidth)});
  const ValueId normed = RmsNorm(b, h, gain, 1e-6);
  const ValueId experts = b.Parameter(
      "experts", {Static(kExperts), Static(kWidth), Static(kWidth)});
  const ValueId offset = b.Input("offset", DType::kI32, {Static(kExperts + 1)});
  const ValueId y = GroupedMatMul(b, normed, experts, offset);
  const ValueId layer = b.Parameter("layer", {Static(kWidth), Static(kWidth)});
  b.Parameter("nobody", {Static(kWidth), Static(kWidth)});
  b.Output("y", Linear(b, y, layer));
  const Graph graph = Finish(b);

  EXPECT_THAT(NarrowableWeights(graph),
              ElementsAre("experts", "layer", "table"));

  const Graph narrow = NarrowWeights(graph, {"layer", "table"});
  EXPECT_THAT(Verify(narrow), IsOk());
  const auto dtype = [&](const std::string& name) {
    return narrow.value(narrow.FindSource(name)).type.dtype;
  };
  EXPECT_EQ(dtype("layer"), DType::kBF16);
  EXPECT_EQ(dtype("table"), DType::kBF16);
  EXPECT_EQ(dtype("experts"), DType::kF32);
  EXPECT_EQ(dtype("gain"), DType::kF32);
  for (const Node& node : narrow.nodes()) {
    EXPECT_EQ(narrow.value(node.outputs[0]).type.dtype, DType::kF32);
  }
  EXPECT_EQ(narrow.outputs().at("y"), graph.outputs().at("y"));
}

TEST(NarrowWeightsTest, LeavesAMatrixThatSomeReaderWantsWide) {
  GraphBuilder b;
  const ValueId w = b.Parameter("w", {Static(kWidth), Static(kWidth)});
  const ValueId y = Linear(b, Rows(b), w);
  b.Output("y", MatMul(b, y, w));  // Not transposed.
  EXPECT_THAT(NarrowableWeights(Finish(b)), IsEmpty());
}

TEST(NarrowWeightsTest, LeavesAMatrixThatIsBothOperands) {
  GraphBuilder b;
  const ValueId w = b.Parameter("w", {Static(kWidth), Static(kWidth)});
  b.Output("y", Linear(b, w, w));
  EXPECT_THAT(NarrowableWeights(Finish(b)), IsEmpty());
}

TEST(NarrowWeightsTest, LeavesSumsAndDoubles) {
  GraphBuilder b(DType::kF64);
  const ValueId w = b.Parameter("w", {Static(kWidth), Static(kWidth)});
  const ValueId x =
      b.Input("x", DType::kF64, {Static(kTokens), Static(kWidth)});
  b.Output("y", Linear(b, x, w));
  EXPECT_THAT(NarrowableWeights(Finish(b)), IsEmpty());

  GraphBuilder sum;
  const ValueId v = sum.Parameter("v", {Static(kTokens), Static(kWidth)});
  sum.Output("y", Add(sum, Rows(sum), v));
  EXPECT_THAT(NarrowableWeights(Finish(sum)), IsEmpty());
}

}  // namespace
}  // namespace strata
