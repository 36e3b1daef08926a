#include "core/passes/quantize_weights.h"

#include <string>
#include <utility>

#include "absl/status/status.h"
#include "core/graph/builder.h"
#include "core/graph/graph.h"
#include "core/graph/op_def.h"
#include "core/ops/embedding.h"
#include "core/ops/fused_attention.h"
#include "core/ops/fused_experts.h"
#include "core/ops/grouped_matmul.h"
#include "core/ops/matmul.h"
#include "core/quant/format.h"
#include "core/quant/mixed_rows.h"
#include "core/tensor/dtype.h"
#include "core/testing/status_matchers.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace strata {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

constexpr int64_t kTokens = 3, kWidth = 64, kExperts = 2;

ValueId Rows(GraphBuilder& b) {
  return b.Input("x", DType::kF32, {Static(kTokens), Static(kWidth)});
}
ValueId Matrix(GraphBuilder& b, const std::string& name) {
  return b.Parameter(name, {Static(kWidth), Static(kWidth)});
}
Graph Finish(GraphBuilder& b) {
  auto graph = b.Finish();
  EXPECT_THAT(graph, IsOk());
  return *std::move(graph);
}

TEST(QuantizeWeightsTest, ReplacesProductsByLayersAndExperts) {
  GraphBuilder b;
  const ValueId table = Matrix(b, "table");
  const ValueId ids = b.Input("ids", DType::kI32, {Static(kTokens)});
  const ValueId h = Embedding(b, table, ids);
  const ValueId experts = b.Parameter(
      "experts", {Static(kExperts), Static(kWidth), Static(kWidth)});
  const ValueId offset = b.Input("offset", DType::kI32, {Static(kExperts + 1)});
  const ValueId y = GroupedMatMul(b, h, experts, offset);
  b.Output("y", Linear(b, Linear(b, y, Matrix(b, "layer")), table));
  Matrix(b, "nobody");
  const Graph graph = Finish(b);
  // The table is looked up in, too.
  EXPECT_THAT(QuantizableWeights(graph), ElementsAre("experts", "layer"));

  const auto packed = QuantizeWeights(
      graph, {{"experts", {4, 32, true}}, {"layer", {8, 0, false}}});
  ASSERT_THAT(packed, IsOk());
  EXPECT_THAT(Verify(*packed), IsOk());
  const auto text = [&](const std::string& name) {
    return ToText(*packed, packed->value(packed->FindSource(name)).type);
  };
  EXPECT_EQ(text("experts"), "U8[2, 64, 36]");  // 64 / 2 + 2 groups * 2
  EXPECT_EQ(text("layer"), "U8[64, 67]");       // 64 + 2 + 1
  EXPECT_EQ(text("table"), "F32[64, 64]");
  std::string operators;
  for (const Node& node : packed->nodes()) {
    operators += std::string(node.op->name) + " ";
    EXPECT_EQ(packed->value(node.outputs[0]).type.dtype, DType::kF32);
  }
  EXPECT_EQ(operators, "Embedding QuantGroupedMatMul QuantMatMul MatMul ");
  // Its own inference agrees.
  for (const Node& node : packed->nodes()) {
    EXPECT_THAT(node.op->infer({*packed, node.inputs, {}, node.attrs}), IsOk());
  }
}

// Whose weights may have a format each.
TEST(QuantizeWeightsTest, MakesFusedOperatorsTheirTwins) {
  GraphBuilder b;
  const ValueId h =
      b.Input("h", DType::kF32, {Static(kTokens), Static(kWidth)});
  b.Output("y", b.Add(kNormMlp,
                      {h, b.Parameter("gain", {Static(kWidth)}),
                       b.Parameter("up", {Static(64), Static(kWidth)}),
                       b.Parameter("down", {Static(kWidth), Static(32)})},
                      {{"eps", 1e-6}, {"in_place", int64_t{0}}})[0]);
  const Graph graph = Finish(b);
  EXPECT_THAT(QuantizableWeights(graph), ElementsAre("down", "up"));

  const auto packed =
      QuantizeWeights(graph, {{"up", {4, 32, true}}, {"down", {8, 32, false}}});

  ASSERT_THAT(packed, IsOk());
  const Node& node = packed->node(0);
  EXPECT_EQ(node.op->name, "QuantNormMlp");
  EXPECT_THAT(node.op->infer({*packed, node.inputs, {}, node.attrs}), IsOk());
  const Cost plain = CostOf(graph, {}), twin = CostOf(*packed, {});
  EXPECT_EQ(twin.flops, plain.flops);
  // up has 64 rows of 32 + 4 bytes instead of 256, down 64 of 64 + 3 instead of
  // 128.
  EXPECT_EQ(plain.bytes_read - twin.bytes_read, 64 * (256 - 36 + 128 - 67));
}

// Attention over heads: 4 of queries to 2 of keys, whose weights are input and
// output projections.
TEST(QuantizeWeightsTest, MakesAttentionOverHeadsItsTwins) {
  constexpr int64_t kHead = 16, kSlots = 8;
  GraphBuilder b;
  const auto rows = [&](const char* name, int64_t n) {
    return b.Input(name, DType::kF32, {Static(kTokens), Static(n)});
  };
  const auto places = [&](const char* name) {
    return b.Input(name, DType::kI32, {Static(kTokens)});
  };
  const auto cache = [&](const char* name) {
    return b.State(name, DType::kF32, {Static(kSlots), Static(2 * kHead)});
  };
  const ValueId k = cache("k"), v = cache("v");
  NormQkvOptions options;
  options.num_heads = 4;
  options.num_kv_heads = 2;
  const ValueId q =
      b.Add(kNormQkv,
            {Rows(b), b.Parameter("gain", {Static(kWidth)}), Matrix(b, "wq"),
             b.Parameter("wk", {Static(2 * kHead), Static(kWidth)}),
             b.Parameter("wv", {Static(2 * kHead), Static(kWidth)}), kNone,
             kNone, kNone, kNone, kNone, rows("cos", kHead / 2),
             rows("sin", kHead / 2), k, v, places("row")},
            NormQkvAttrs(options))[0];
  b.Output("y", b.Add(kCachedAttendProject,
                      {q, k, v, places("first_row"), places("position"),
                       rows("h", kWidth), Matrix(b, "w"), kNone},
                      {{"num_heads", int64_t{4}},
                       {"num_kv_heads", int64_t{2}},
                       {"scale", 0.25},
                       {"window", int64_t{0}},
                       {"in_place", int64_t{5}}})[0]);
  const Graph graph = Finish(b);
  EXPECT_THAT(QuantizableWeights(graph), ElementsAre("w", "wk", "wq", "wv"));

  const auto packed = QuantizeWeights(
      graph,
      {{"wk", {4, 32, true}}, {"wq", {8, 32, true}}, {"w", {4, 32, true}}});

  ASSERT_THAT(packed, IsOk());
  std::string operators;
  for (const Node& node : packed->nodes()) {
    operators += std::string(node.op->name) + " ";
    EXPECT_THAT(node.op->infer({*packed, node.inputs, {}, node.attrs}), IsOk());
  }
  EXPECT_EQ(operators, "QuantNormQkv QuantCachedAttendProject ");
  EXPECT_EQ(CostOf(*packed, {}).flops, CostOf(graph, {}).flops);
}

TEST(QuantizeWeightsTest, RefusesFusedExpertsOfSeveralFormats) {
  GraphBuilder b;
  const auto experts = [&](const char* name, int64_t n, int64_t k) {
    return b.Parameter(name, {Static(kExperts), Static(n), Static(k)});
  };
  RoutedOptions options;
  options.k = 1;
  b.Output(
      "y",
      b.Add(kRoutedExperts,
            {b.Input("h", DType::kF32, {Static(kTokens), Static(kWidth)}),
             b.Parameter("gain", {Static(kWidth)}),
             b.Parameter("gate", {Static(kExperts), Static(kWidth)}), kNone,
             experts("up", 64, kWidth), experts("down", kWidth, 32)},
            RoutedAttrs(options))[0]);
  const ExpertFormats formats(kExperts, QuantFormat{4, 32, true});
  EXPECT_THAT(QuantizeWeights(Finish(b), {}, {{"up", formats}}),
              StatusIs(absl::StatusCode::kInvalidArgument,
                       HasSubstr("RoutedExperts takes one")));
}

TEST(QuantizeWeightsTest, GivesExpertsFormatsOfTheirOwn) {
  GraphBuilder b;
  const ValueId experts = b.Parameter(
      "experts", {Static(kExperts), Static(kWidth), Static(kWidth)});
  const ValueId offset = b.Input("offset", DType::kI32, {Static(kExperts + 1)});
  b.Output("y", GroupedMatMul(b, Rows(b), experts, offset));
  const Graph graph = Finish(b);
  const ExpertFormats formats = {{4, 32, true}, {8, 0, false}};

  const auto packed = QuantizeWeights(graph, {}, {{"experts", formats}});

  ASSERT_THAT(packed, IsOk());
  EXPECT_THAT(Verify(*packed), IsOk());
  // 64 for the letters, then 64 rows of 36 and 64 of 67 bytes.
  const Value& w = packed->value(packed->FindSource("experts"));
  EXPECT_EQ(ToText(*packed, w.type), "U8[6656]");
  const Node& node = packed->nodes()[0];
  EXPECT_EQ(std::string(node.op->name), "MixedGroupedMatMul");
  EXPECT_EQ(node.attrs.String("formats"), LettersOf(formats));
  EXPECT_THAT(node.op->infer({*packed, node.inputs, {}, node.attrs}), IsOk());

  EXPECT_THAT(QuantizeWeights(graph, {}, {{"experts", {{4, 32, true}}}}),
              StatusIs(absl::StatusCode::kInvalidArgument,
                       HasSubstr("has formats of 1 experts")));
  EXPECT_THAT(
      QuantizeWeights(graph, {},
                      {{"experts", {{4, 32, true}, {8, 128, true}}}}),
      StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("do not divide")));
}

TEST(QuantizeWeightsTest, LeavesAMatrixThatSomeReaderWantsInFloat) {
  GraphBuilder b;
  const ValueId w = Matrix(b, "w");
  const ValueId y = Linear(b, Rows(b), w);
  b.Output("y", MatMul(b, y, w));               // Not transposed.
  b.Output("z", Linear(b, w, Matrix(b, "v")));  // As rows.
  const Graph graph = Finish(b);
  EXPECT_THAT(QuantizableWeights(graph), ElementsAre("v"));
  EXPECT_THAT(QuantizeWeights(graph, {{"w", QuantFormat()}}),
              StatusIs(absl::StatusCode::kInvalidArgument,
                       HasSubstr("w is packed in integers")));
}

TEST(QuantizeWeightsTest, RefusesGroupsThatDoNotDivide) {
  GraphBuilder b;
  b.Output("y", Linear(b, Rows(b), Matrix(b, "w")));
  EXPECT_THAT(
      QuantizeWeights(Finish(b), {{"w", {4, 128, true}}}),
      StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("do not divide")));
}

TEST(QuantizeWeightsTest, HasNothingToDoWithoutMatrices) {
  GraphBuilder b;
  b.Output("x", Rows(b));
  EXPECT_THAT(QuantizableWeights(Finish(b)), IsEmpty());
}

}  // namespace
}  // namespace strata
