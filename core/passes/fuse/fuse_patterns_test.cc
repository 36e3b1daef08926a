// Which graphs match a pattern and which do not, on the smallest that show it.

#include <algorithm>
#include <functional>
#include <string>
#include <utility>
#include <vector>

#include "core/graph/builder.h"
#include "core/graph/graph.h"
#include "core/graph/op_def.h"
#include "core/ops/activation.h"
#include "core/ops/attention.h"
#include "core/ops/elementwise.h"
#include "core/ops/matmul.h"
#include "core/ops/norm.h"
#include "core/passes/fuse/fuse.h"
#include "core/passes/fuse/fuse_models.h"
#include "core/testing/status_matchers.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace strata {
namespace {

using ::testing::ElementsAre;

// norm, up, SwiGLU, down, add; `touch` may use what lies between.
Graph Mlp(const std::function<void(GraphBuilder&, ValueId normed,
                                   ValueId hidden)>& touch) {
  GraphBuilder b;
  const ValueId h = b.Input("h", DType::kF32, {Static(3), Static(8)});
  const ValueId normed = RmsNorm(b, h, b.Parameter("gain", {Static(8)}), 1e-5);
  const ValueId up =
      Linear(b, normed, b.Parameter("up", {Static(12), Static(8)}));
  const ValueId hidden = SwiGlu(b, up);
  const ValueId down =
      Linear(b, hidden, b.Parameter("down", {Static(8), Static(6)}));
  if (touch) touch(b, normed, hidden);
  b.Output("y", Add(b, h, down));
  auto graph = b.Finish();
  EXPECT_THAT(graph, IsOk());
  return *std::move(graph);
}

TEST(FusePatternsTest, AMlpIsFused) {
  const Graph fused = Fuse(Mlp(nullptr));
  EXPECT_THAT(OpNames(fused), ElementsAre("NormMlp"));
  EXPECT_EQ(fused.outputs().count("y"), 1);
}

TEST(FusePatternsTest, WhatReadsAParameterThatStaysIsNotFused) {
  const Graph graph = Mlp(nullptr);
  FuseOptions options;
  const auto reads = [](const std::string& name) {
    return [name](const OpDef& op, const std::vector<const Value*>& inputs) {
      return std::any_of(inputs.begin(), inputs.end(), [&](const Value* value) {
        return value != nullptr && value->name == name;
      });
    };
  };
  options.stays = reads("down");
  EXPECT_EQ(ToText(Fuse(graph, options)), ToText(graph));
  options.stays = reads("other");
  EXPECT_EQ(Fuse(graph, options).nodes().size(), 1);
}

TEST(FusePatternsTest, AnIntermediateThatIsReadElsewhereStays) {
  const Graph graph = Mlp([](GraphBuilder& b, ValueId, ValueId hidden) {
    b.Output("other", Scale(b, hidden, 2));
  });
  EXPECT_EQ(ToText(Fuse(graph)), ToText(graph));
}

TEST(FusePatternsTest, AnIntermediateThatIsAnOutputStays) {
  const Graph graph = Mlp([](GraphBuilder& b, ValueId normed, ValueId) {
    b.Output("normed", normed);
  });
  EXPECT_EQ(ToText(Fuse(graph)), ToText(graph));
}

TEST(FusePatternsTest, AResidualFromElsewhereIsNoDenseLayer) {
  GraphBuilder b;
  const ValueId h = b.Input("h", DType::kF32, {Static(3), Static(8)});
  const ValueId other = b.Input("other", DType::kF32, {Static(3), Static(8)});
  const ValueId normed = RmsNorm(b, h, b.Parameter("gain", {Static(8)}), 1e-5);
  const ValueId hidden =
      SwiGlu(b, Linear(b, normed, b.Parameter("up", {Static(12), Static(8)})));
  b.Output("y",
           Add(b, other,
               Linear(b, hidden, b.Parameter("down", {Static(8), Static(6)}))));
  const auto graph = b.Finish();
  ASSERT_THAT(graph, IsOk());
  EXPECT_EQ(ToText(Fuse(*graph)), ToText(*graph));
}

// Attention over a cache, its projection, the sum; `between` may do something
// before the sum.
Graph Attention(
    const std::function<void(GraphBuilder&, ValueId cache)>& between) {
  GraphBuilder b;
  const auto floats = [&](const char* name, Dims dims) {
    return b.Input(name, DType::kF32, dims);
  };
  const auto ints = [&](const char* name) {
    return b.Input(name, DType::kI32, {Static(3)});
  };
  const ValueId h = floats("h", {Static(3), Static(8)});
  const ValueId k = b.State("k", DType::kF32, {Static(20), Static(4)});
  const ValueId v = b.State("v", DType::kF32, {Static(20), Static(4)});
  const ValueId o =
      CachedAttention(b, floats("q", {Static(3), Static(12)}), k, v,
                      ints("first_row"), ints("position"), {3, 1, 0.5, 0});
  const ValueId projected =
      Linear(b, o, b.Parameter("o", {Static(8), Static(12)}));
  between(b, v);
  b.Output("y", Add(b, h, projected));
  auto graph = b.Finish();
  EXPECT_THAT(graph, IsOk());
  return *std::move(graph);
}

TEST(FusePatternsTest, StateThatIsUpdatedInBetweenKeepsItsReaders) {
  EXPECT_THAT(OpNames(Fuse(Attention([](GraphBuilder&, ValueId) {}))),
              ElementsAre("CachedAttendProject"));
  const Graph graph = Attention([](GraphBuilder& b, ValueId cache) {
    CacheWrite(b, cache, b.Input("rows", DType::kF32, {Static(3), Static(4)}),
               b.Input("row", DType::kI32, {Static(3)}));
  });
  EXPECT_EQ(ToText(Fuse(graph)), ToText(graph));
}

TEST(FusePatternsTest, ATrainingGraphStaysAsItIs) {
  GraphBuilder b;
  const ValueId h = b.Input("h", DType::kF32, {Static(3), Static(8)});
  const ValueId normed = RmsNorm(b, h, b.Parameter("gain", {Static(8)}), 1e-5);
  const ValueId up =
      Linear(b, normed, b.Parameter("up", {Static(12), Static(8)}));
  const ValueId y = Add(
      b, h,
      Linear(b, SwiGlu(b, up), b.Parameter("down", {Static(8), Static(6)})));
  b.set_phase(Phase::kInputGrad);
  b.Output("dh", b.Add1(kSwiGluGrad, {SwiGlu(b, up), up}));
  b.Output("y", y);
  const auto graph = b.Finish();
  ASSERT_THAT(graph, IsOk());
  EXPECT_EQ(ToText(Fuse(*graph)), ToText(*graph));
}

}  // namespace
}  // namespace strata
