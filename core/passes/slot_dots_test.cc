#include "core/passes/slot_dots.h"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <map>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "core/cpu/all_kernels.h"
#include "core/cpu/cpu_backend.h"
#include "core/graph/builder.h"
#include "core/graph/graph.h"
#include "core/ops/activation.h"
#include "core/ops/dispatch.h"
#include "core/ops/grouped_matmul.h"
#include "core/ops/slot_dot.h"
#include "core/passes/autodiff.h"
#include "core/runtime/program.h"
#include "core/runtime/state_store.h"
#include "core/tensor/dtype.h"
#include "core/testing/status_matchers.h"
#include "gtest/gtest.h"

namespace strata {
namespace {

constexpr int64_t kBound = 9, kWidth = 12, kInner = 5, kExperts = 4, kTop = 2;
constexpr int32_t kTokens = 8;

// A layer of experts, chosen and weighed by inputs, and its gradients. What is
// read of the weights' gradient comes at the end, unless `early`.
Graph MakeLayer(bool early = false) {
  GraphBuilder b(DType::kF64);
  const Dim t = Ragged(kBound, b.Input("n", DType::kI32, {}));
  const ValueId x = b.Input("x", DType::kF64, {t, Static(kWidth)});
  const ValueId expert = b.Input("expert", DType::kI32, {t, Static(kTop)});
  const ValueId weight = b.Input("weight", DType::kF64, {t, Static(kTop)});
  const ValueId up =
      b.Parameter("up", {Static(kExperts), Static(2 * kInner), Static(kWidth)});
  const ValueId down =
      b.Parameter("down", {Static(kExperts), Static(kWidth), Static(kInner)});
  const ValueId dout = b.Input("dout", DType::kF64, {t, Static(kWidth)});
  const DispatchPlanResult plan = DispatchPlan(b, expert, kExperts);
  const ValueId h =
      SwiGlu(b, GroupedMatMul(b, DispatchRows(b, x, plan), up, plan.offset));
  const ValueId y = GroupedMatMul(b, h, down, plan.offset);
  b.Output("out", CombineRows(b, y, plan, weight));
  if (early) {
    const ValueId dweight = b.Add1(kRowDot, {dout, y, plan.slot_row});
    b.Output("twice", b.Add1(kRowDot, {dout, y, plan.slot_row}));
    b.Output("d weight", dweight);
  } else {
    const auto gradients = Differentiate(
        b, {{b.graph().outputs().at("out"), dout}}, {x, weight, up, down});
    EXPECT_THAT(gradients, IsOk());
    for (const auto& [id, grad] : *gradients) {
      b.Output("d " + b.graph().value(id).name, grad);
    }
  }
  auto graph = b.Finish();
  EXPECT_THAT(graph, IsOk());
  return *std::move(graph);
}

int Count(const Graph& graph, const OpDef& op) {
  int count = 0;
  for (const Node& node : graph.nodes()) count += node.op == &op;
  return count;
}

std::map<std::string, std::vector<double>> RunLayer(Graph graph) {
  CpuBackend backend(/*num_threads=*/2, AllCpuKernels());
  StateStore state(backend);
  auto program = Program::Compile(std::move(graph), backend, state);
  EXPECT_THAT(program, IsOk());
  std::mt19937 rng(5);
  std::normal_distribution<double> normal;
  for (const char* name : {"up", "down"}) {
    for (double& x : state.Get(name).span<double>()) x = normal(rng);
  }
  for (const char* name : {"x", "weight", "dout"}) {
    for (double& x : (*program)->Input(name).span<double>()) x = normal(rng);
  }
  *(*program)->Input("n").as<int32_t>() = kTokens;
  for (int32_t i = 0; i < kTokens * kTop; ++i) {
    // Two of each token, some of them none.
    const int32_t expert = (i / kTop + i % kTop) % kExperts;
    (*program)->Input("expert").as<int32_t>()[i] = i % 7 == 3 ? -1 : expert;
  }
  EXPECT_THAT((*program)->Run(), IsOk());
  std::map<std::string, std::vector<double>> results;
  for (const auto& [name, id] : (*program)->graph().outputs()) {
    const auto values = (*program)->Output(name).span<double>();
    results[name].assign(values.begin(), values.end());
  }
  return results;
}

TEST(SlotDotsTest, GradientsAreThoseOfRowsThatWereKept) {
  const Graph kept = MakeLayer();
  ASSERT_EQ(Count(kept, kRowDot), 1);

  const Graph graph = UseSlotDots(kept);

  EXPECT_THAT(Verify(graph), IsOk());
  EXPECT_EQ(Count(graph, kRowDot), 0);
  EXPECT_EQ(Count(graph, kSlotDot), 1);
  EXPECT_EQ(graph.values().size(), kept.values().size());
  const auto want = RunLayer(kept), got = RunLayer(graph);
  ASSERT_EQ(got.size(), 5);
  for (const auto& [name, values] : want) {
    double largest = 0;
    for (const double x : values) largest = std::max(largest, std::abs(x));
    ASSERT_EQ(got.at(name).size(), values.size()) << name;
    // Sums of 12 products of 5 terms in another order, and a division by
    // weights of which the smallest is some hundredth.
    for (size_t i = 0; i < values.size(); ++i) {
      EXPECT_NEAR(got.at(name)[i], values[i], 100 * 60 * 0x1p-53 * largest)
          << name << " " << i;
    }
  }
}

TEST(SlotDotsTest, OperatorsFindNothingWrongWithWhatItMakes) {
  const Graph graph = UseSlotDots(MakeLayer());
  for (const Node& node : graph.nodes()) {
    if (node.op != &kSlotDot) continue;
    const auto types = node.op->infer({graph, node.inputs, {}, node.attrs});
    ASSERT_THAT(types, IsOk());
    EXPECT_TRUE((*types)[0].dims == graph.value(node.outputs[0]).type.dims);
  }
}

TEST(SlotDotsTest, WithoutAGradientInsideRowsAreKept) {
  const Graph kept = MakeLayer(/*early=*/true);
  EXPECT_EQ(ToText(UseSlotDots(kept)), ToText(kept));
}

}  // namespace
}  // namespace strata
