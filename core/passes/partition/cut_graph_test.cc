#include "core/passes/partition/cut_graph.h"

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "core/graph/builder.h"
#include "core/graph/graph.h"
#include "core/ops/dispatch.h"
#include "core/ops/elementwise.h"
#include "core/ops/matmul.h"
#include "core/tensor/dtype.h"
#include "core/testing/status_matchers.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace strata {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::UnorderedElementsAre;

std::vector<std::string> OutputNames(const Graph& graph) {
  std::vector<std::string> names;
  for (const auto& [name, id] : graph.outputs()) names.push_back(name);
  return names;
}

TEST(CutGraphTest, WhatAnotherPieceMakesBecomesAnInput) {
  GraphBuilder b;
  const ValueId t = b.Input("t", DType::kI32, {});
  const ValueId x = b.Input("x", DType::kF32, {Ragged(8, t), Static(4)});
  const ValueId w = b.Parameter("w", {Static(4), Static(4)});
  const ValueId y = Linear(b, x, w);  // Node 0.
  const ValueId z = Scale(b, y, 2);   // Node 1.
  const ValueId u = Linear(b, z, w);  // Node 2.
  b.Output("u", Add(b, u, y));        // Node 3.
  b.Output("z", z);
  b.Output("t", t);
  auto graph = b.Finish();
  ASSERT_THAT(graph, IsOk());

  const auto pieces = CutGraph(*graph, {0, 0, 1, 1}, 2, "p");

  ASSERT_THAT(pieces, IsOk());
  const GraphPiece &first = (*pieces)[0], &second = (*pieces)[1];
  EXPECT_THAT(first.imports, IsEmpty());
  EXPECT_THAT(first.exports, ElementsAre(y, z));
  EXPECT_THAT(second.imports, ElementsAre(y, z));
  EXPECT_THAT(OutputNames(first.graph),
              UnorderedElementsAre("z", "t", PieceValueName("p", y),
                                   PieceValueName("p", z)));
  EXPECT_THAT(OutputNames(second.graph), UnorderedElementsAre("u", "t"));
  // Sized by the input that both have.
  const ValueId input = second.graph.FindSource(PieceValueName("p", y));
  ASSERT_NE(input, kNone);
  EXPECT_EQ(second.graph.value(input).type.dims[0].count,
            second.graph.FindSource("t"));
  EXPECT_NE(first.graph.FindSource("w"), kNone);
  EXPECT_NE(second.graph.FindSource("w"), kNone);
  EXPECT_EQ(second.graph.FindSource("x"), kNone);
}

// What passes have made BF16 stays so, as an import too; operators would infer
// F32. A value may be sized by one that its node makes behind it.
TEST(CutGraphTest, TypesStay) {
  GraphBuilder b;
  const ValueId expert = b.Input("expert", DType::kI32, {Static(6), Static(2)});
  const ValueId x = b.Input("x", DType::kF32, {Static(6), Static(8)});
  const DispatchPlanResult plan = DispatchPlan(b, expert, 4);  // Node 0.
  const ValueId rows = DispatchRows(b, x, plan);               // Node 1.
  b.Output("y", Scale(b, rows, 2));                            // Node 2.
  auto graph = b.Finish();
  ASSERT_THAT(graph, IsOk());
  std::vector<Value> values = graph->values();
  values[rows].type.dtype = DType::kBF16;
  Graph narrow;
  CopyValues(values, std::vector<bool>(values.size(), true), narrow);
  for (const Node& node : graph->nodes()) narrow.AddNode(node);
  narrow.SetOutput("y", graph->outputs().at("y"));

  const auto pieces = CutGraph(narrow, {0, 0, 1}, 2, "p");

  ASSERT_THAT(pieces, IsOk());
  const Graph& first = (*pieces)[0].graph;
  const Value& slots = first.value((*pieces)[0].value[plan.row_slot]);
  EXPECT_EQ(slots.type.dims[0].count, (*pieces)[0].value[plan.rows]);
  for (const GraphPiece& piece : *pieces) {
    const ValueType& type = piece.graph.value(piece.value[rows]).type;
    EXPECT_EQ(type.dtype, DType::kBF16);
    EXPECT_EQ(type.dims[0].count, piece.value[plan.rows]);
  }
}

TEST(CutGraphTest, APieceCannotReadALaterOne) {
  GraphBuilder b;
  const ValueId x = b.Input("x", DType::kF32, {Static(4)});
  b.Output("y", Scale(b, Scale(b, x, 2), 3));
  auto graph = b.Finish();
  ASSERT_THAT(graph, IsOk());
  EXPECT_THAT(CutGraph(*graph, {1, 0}, 2, "p").status(),
              StatusIs(absl::StatusCode::kInternal,
                       HasSubstr("piece 0 reads what piece 1 makes")));
}

// Blocks of `products` matrix products each.
Graph Blocks(const std::vector<int>& products) {
  GraphBuilder b;
  const Dims square = {Static(4), Static(4)};
  ValueId h = Scale(b, b.Input("x", DType::kF32, square), 1);
  for (size_t i = 0; i < products.size(); ++i) {
    GraphBuilder::Scope scope(b, absl::StrCat("model.layers.", i));
    const ValueId w = b.Parameter(b.Scoped("w"), square);
    for (int n = 0; n < products[i]; ++n) h = Linear(b, h, w);
  }
  b.Output("y", Scale(b, h, 1));
  auto graph = b.Finish();
  EXPECT_THAT(graph, IsOk());
  return *std::move(graph);
}

TEST(BalancedStagesTest, TheLargestStageIsTheLeast) {
  // 1 1 4 | 3 2 and 1 1 | 4 | 3 2.
  const Graph graph = Blocks({1, 1, 4, 3, 2});
  const auto two = BalancedStages(graph, 5, 2);
  ASSERT_THAT(two, IsOk());
  EXPECT_THAT(*two, ElementsAre(0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 1));
  const auto three = BalancedStages(graph, 5, 3);
  ASSERT_THAT(three, IsOk());
  EXPECT_THAT(*three, ElementsAre(0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2, 2, 2));
}

TEST(BalancedStagesTest, BlocksBehindTheLastAreTheLastStages) {
  // Of three blocks the third is said to be none: a prediction module.
  const auto stages = BalancedStages(Blocks({1, 1, 4}), /*num_blocks=*/2, 2);
  ASSERT_THAT(stages, IsOk());
  EXPECT_THAT(*stages, ElementsAre(0, 0, 1, 1, 1, 1, 1, 1));
}

TEST(BalancedStagesTest, WantsABlockAStage) {
  EXPECT_THAT(BalancedStages(Blocks({1, 1}), 2, 3).status(),
              StatusIs(absl::StatusCode::kInvalidArgument,
                       HasSubstr("2 layers; want at least pp = 3")));
}

}  // namespace
}  // namespace strata
