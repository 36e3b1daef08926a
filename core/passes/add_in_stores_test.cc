#include "core/passes/add_in_stores.h"

#include <cstdint>
#include <functional>
#include <map>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "core/cpu/all_kernels.h"
#include "core/cpu/cpu_backend.h"
#include "core/graph/builder.h"
#include "core/graph/graph.h"
#include "core/graph/op_def.h"
#include "core/model/config.pb.h"
#include "core/model/decoder.h"
#include "core/model/tiny_configs.h"
#include "core/ops/dispatch.h"
#include "core/ops/elementwise.h"
#include "core/ops/fed_norm.h"
#include "core/ops/norm.h"
#include "core/passes/autodiff.h"
#include "core/runtime/program.h"
#include "core/runtime/state_store.h"
#include "core/tensor/dtype.h"
#include "core/testing/status_matchers.h"
#include "gtest/gtest.h"

namespace strata {
namespace {

constexpr int64_t kBound = 9, kWidth = 12, kExperts = 4, kTop = 2, kTiers = 3;
constexpr int32_t kTokens = 8;
constexpr double kEps = 1e-5;

int Count(const Graph& graph, const OpDef& op) {
  int count = 0;
  for (const Node& node : graph.nodes()) count += node.op == &op;
  return count;
}

// A block whose tiers are fed, beside a shared branch, and its gradients.
// Experts scale their rows; what a gate reads of a tier's input is an output.
Graph MakeBlock(DType dtype, bool fused) {
  GraphBuilder b(dtype);
  const Dims rows = {Ragged(kBound, b.Input("n", DType::kI32, {})),
                     Static(kWidth)};
  const Dims slots = {rows[0], Static(kTop)};
  const ValueId x = b.Input("x", dtype, rows);
  const ValueId expert = b.Input("expert", DType::kI32, slots);
  const ValueId weight = b.Input("weight", dtype, slots);
  const ValueId dout = b.Input("dout", dtype, rows);
  const DispatchPlanResult plan = DispatchPlan(b, expert, kExperts);
  std::vector<ValueId> wanted = {x, weight};
  const auto gain = [&](const std::string& name) {
    wanted.push_back(b.Parameter(name, {Static(kWidth)}));
    return wanted.back();
  };
  const ValueId beside = Scale(b, RmsNorm(b, x, gain("shared"), kEps), 0.7);
  std::vector<Seed> seeds;
  ValueId h = x;
  for (int tier = 0; tier < kTiers; ++tier) {
    const ValueId norm = gain("norm." + std::to_string(tier));
    ValueId in = kNone;
    if (tier == 0) {
      in = RmsNorm(b, h, norm, kEps);
    } else if (fused) {
      in = FedNorm(b, x, h, norm, gain("feed." + std::to_string(tier)), kEps);
    } else {
      const ValueId added = Add(b, h, Scale(b, x, -1));
      const ValueId fed =
          RmsNorm(b, added, gain("feed." + std::to_string(tier)), kEps);
      in = Add(b, RmsNorm(b, x, norm, kEps), fed);
    }
    const ValueId gate = Scale(b, in, 0.3);
    seeds.push_back({gate, dout});
    const ValueId y = Scale(b, DispatchRows(b, in, plan), 0.5 + tier);
    h = Add(b, h, CombineRows(b, y, plan, weight));
  }
  const ValueId out = Add(b, h, beside);
  b.Output("out", out);
  seeds.push_back({out, dout});
  const auto gradients = Differentiate(b, seeds, wanted);
  EXPECT_THAT(gradients, IsOk());
  for (const auto& [id, grad] : *gradients) {
    b.Output("d " + b.graph().value(id).name, grad);
  }
  auto graph = b.Finish();
  EXPECT_THAT(graph, IsOk());
  return *std::move(graph);
}

template <typename T>
std::map<std::string, std::vector<double>> RunBlock(Graph graph) {
  CpuBackend backend(/*num_threads=*/2, AllCpuKernels());
  StateStore state(backend);
  auto program = Program::Compile(std::move(graph), backend, state);
  EXPECT_THAT(program, IsOk());
  if (!program.ok()) return {};
  std::mt19937 rng(5);
  std::normal_distribution<float> normal;
  std::map<std::string, std::vector<double>> results;
  for (const std::string& name : state.names()) {
    for (T& x : state.Get(name).span<T>()) x = normal(rng);
  }
  for (const char* name : {"x", "weight", "dout"}) {
    for (T& x : (*program)->Input(name).span<T>()) x = normal(rng);
  }
  *(*program)->Input("n").as<int32_t>() = kTokens;
  for (int32_t i = 0; i < kTokens * kTop; ++i) {
    // Two of each token, some of them none.
    const int32_t expert = (i / kTop + i % kTop) % kExperts;
    (*program)->Input("expert").as<int32_t>()[i] = i % 7 == 3 ? -1 : expert;
  }
  EXPECT_THAT((*program)->Run(), IsOk());
  for (const auto& [name, id] : (*program)->graph().outputs()) {
    const auto values = (*program)->Output(name).template span<T>();
    results[name].assign(values.begin(), values.end());
  }
  return results;
}

// The weights' gradients, which RowDots make.
constexpr int kSumsOfDots = kTiers - 1;

// All sums of rows in a block are made where a term is stored, and the bits are
// those of the graph without: fused or not, sums are in the same order.
TEST(AddInStoresTest, ABlockGivesTheSameBitsWithoutAddsOfRows) {
  const Graph plain = MakeBlock(DType::kF32, /*fused=*/false);
  const Graph fed = MakeBlock(DType::kF32, /*fused=*/true);
  const AddedInStores added = AddInStores(fed);

  EXPECT_THAT(Verify(added.graph), IsOk());
  // Forward: a tier's each, and the shared branch's. Backward: by each tier's
  // input two; by h and x what follows from three, two and two norms.
  EXPECT_EQ(Count(fed, kAdd), kTiers + 1 + kTiers + 3 + 2 + 1 + kSumsOfDots);
  EXPECT_EQ(Count(added.graph, kAdd), kSumsOfDots);
  EXPECT_EQ(Count(added.graph, kFedNorm), kTiers - 1);
  EXPECT_EQ(Count(added.graph, kScale), Count(fed, kScale));

  const auto want = RunBlock<float>(plain);
  EXPECT_EQ(want.size(), 3 + 1 + kTiers + (kTiers - 1));
  EXPECT_EQ(RunBlock<float>(added.graph), want);
  EXPECT_EQ(RunBlock<float>(AddInStores(plain).graph), want);
  const auto exact = RunBlock<double>(MakeBlock(DType::kF64, false));
  EXPECT_EQ(RunBlock<double>(AddInStores(MakeBlock(DType::kF64, true)).graph),
            exact);
}

TEST(AddInStoresTest, AnAddIsTwoPassesOverMemory) {
  const Graph graph = MakeBlock(DType::kF32, /*fused=*/true);
  const Cost before = CostOf(graph, nullptr);
  const Cost after = CostOf(AddInStores(graph).graph, nullptr);
  const double pass = 4. * kBound * kWidth;
  const int adds = Count(graph, kAdd) - kSumsOfDots;
  EXPECT_EQ(after.flops, before.flops);
  // What is written and read once less; the Add's other read and its write
  // are its taker's.
  EXPECT_EQ(before.bytes_read - after.bytes_read, adds * pass);
  EXPECT_EQ(before.bytes_written - after.bytes_written, adds * pass);
}

TEST(AddInStoresTest, OperatorsFindNothingWrongWithWhatItMakes) {
  const Graph graph = AddInStores(MakeBlock(DType::kF32, true)).graph;
  for (const Node& node : graph.nodes()) {
    const auto types = node.op->infer({graph, node.inputs, {}, node.attrs});
    ASSERT_THAT(types, IsOk()) << node.op->name;
    for (size_t i = 0; i < types->size(); ++i) {
      EXPECT_EQ((*types)[i].dims.size(),
                graph.value(node.outputs[i]).type.dims.size());
    }
  }
}

TEST(AddInStoresTest, SaysWhereValuesAre) {
  const Graph graph = MakeBlock(DType::kF32, /*fused=*/true);
  const AddedInStores added = AddInStores(graph);
  ASSERT_EQ(added.value.size(), graph.values().size());
  for (const auto& [name, id] : graph.outputs()) {
    EXPECT_EQ(added.graph.outputs().at(name), added.value[id]) << name;
  }
  size_t there = 0;
  for (size_t id = 0; id < graph.values().size(); ++id) {
    if (added.value[id] == kNone) continue;
    ++there;
    EXPECT_EQ(added.graph.value(added.value[id]).name, graph.value(id).name);
  }
  EXPECT_EQ(there, graph.values().size() - (Count(graph, kAdd) - kSumsOfDots));
}

// A whole decoder's gradients, of tiers that are fed and of others.
TEST(AddInStoresTest, LeavesProductsSumsInADecoder) {
  for (const bool fed : {false, true}) {
    ModelConfig config = Hierarchical();
    if (fed) {
      config.mutable_moe()->mutable_hierarchical()->set_tier_input(
          HierarchicalRouterConfig::FED);
    }
    GraphBuilder b;
    DecoderOptions options;
    options.max_tokens = 24;
    const Decoder decoder = BuildDecoder(b, config, options);
    std::vector<ValueId> parameters;
    for (size_t id = 0; id < b.graph().values().size(); ++id) {
      if (b.graph().value(id).role == Role::kParameter) {
        parameters.push_back(static_cast<ValueId>(id));
      }
    }
    b.set_phase(Phase::kInputGrad);
    const auto gradients =
        Differentiate(b, {{decoder.total_loss, Fill(b, 1)}}, parameters);
    ASSERT_THAT(gradients, IsOk());
    for (const auto& [id, grad] : *gradients) {
      b.Output("grad." + b.graph().value(id).name, grad);
    }
    const auto graph = b.Finish();
    ASSERT_THAT(graph, IsOk());
    const Graph added = AddInStores(*graph).graph;
    EXPECT_THAT(Verify(added), IsOk());
    EXPECT_LT(Count(added, kAdd), Count(*graph, kAdd));
    // What an Add has left is read elsewhere too.
    std::vector<int> readers(added.values().size());
    for (const Node& node : added.nodes()) {
      for (const ValueId id : node.inputs) {
        if (id != kNone) ++readers[id];
      }
    }
    for (const Node& node : added.nodes()) {
      if (node.op != &kAdd) continue;
      for (const ValueId term : node.inputs) {
        const NodeId maker = added.value(term).producer;
        if (maker == kNone || added.node(maker).op != &kCombineRows) continue;
        EXPECT_GT(readers[term], 1) << ToText(node);
      }
    }
  }
}

// How many of the Adds that `build` makes of rows stay.
int AddsLeft(const std::function<void(GraphBuilder&, ValueId x, ValueId gain,
                                      ValueId rstd)>& build) {
  GraphBuilder b;
  const ValueId x = b.Input("x", DType::kF32, {Static(3), Static(4)});
  const ValueId rstd = b.Input("rstd", DType::kF32, {Static(3)});
  build(b, x, b.Parameter("gain", {Static(4)}), rstd);
  const auto graph = b.Finish();
  EXPECT_THAT(graph, IsOk());
  const AddedInStores added = AddInStores(*graph);
  EXPECT_THAT(Verify(added.graph), IsOk());
  return Count(added.graph, kAdd);
}

ValueId Grad(GraphBuilder& b, ValueId x, ValueId gain, ValueId rstd) {
  return b.Add1(kRmsNormInputGrad, {x, x, gain, rstd});
}

TEST(AddInStoresTest, OneTermTakesTheOther) {
  EXPECT_EQ(AddsLeft([](GraphBuilder& b, ValueId x, ValueId gain, ValueId r) {
              b.Output("y", Add(b, x, Grad(b, x, gain, r)));
            }),
            0);
  // Made later than the term that can take it, which moves.
  EXPECT_EQ(AddsLeft([](GraphBuilder& b, ValueId x, ValueId gain, ValueId r) {
              const ValueId g = Grad(b, x, gain, r);
              b.Output("y", Add(b, g, Scale(b, x, 2)));
            }),
            0);
}

TEST(AddInStoresTest, ATermThatIsWantedItselfStays) {
  EXPECT_EQ(AddsLeft([](GraphBuilder& b, ValueId x, ValueId gain, ValueId r) {
              const ValueId g = Grad(b, x, gain, r);
              b.Output("g", g);
              b.Output("y", Add(b, x, g));
            }),
            1);
  EXPECT_EQ(AddsLeft([](GraphBuilder& b, ValueId x, ValueId gain, ValueId r) {
              const ValueId g = Grad(b, x, gain, r);
              b.Output("twice", Scale(b, g, 2));
              b.Output("y", Add(b, x, g));
            }),
            1);
  EXPECT_EQ(AddsLeft([](GraphBuilder& b, ValueId x, ValueId gain, ValueId r) {
              const ValueId g = Grad(b, x, gain, r);
              b.Output("y", Add(b, g, g));
            }),
            1);
}

TEST(AddInStoresTest, OtherOperatorsAndOtherPhasesKeepTheirSums) {
  EXPECT_EQ(AddsLeft([](GraphBuilder& b, ValueId x, ValueId, ValueId) {
              b.Output("y", Add(b, x, Scale(b, x, 2)));
            }),
            1);
  EXPECT_EQ(AddsLeft([](GraphBuilder& b, ValueId x, ValueId gain, ValueId r) {
              const ValueId g = Grad(b, x, gain, r);
              b.set_phase(Phase::kUpdate);
              b.Output("y", Add(b, x, g));
            }),
            1);
}

TEST(AddInStoresTest, OneThatHasWhatItTakesTakesNoMore) {
  // Of (x + g) + x and so on, g takes x, and no other.
  EXPECT_EQ(AddsLeft([](GraphBuilder& b, ValueId x, ValueId gain, ValueId r) {
              const ValueId sum = Add(b, x, Grad(b, x, gain, r));
              b.Output("y", Add(b, x, sum));
            }),
            1);
  // Of a sum that nothing else reads, both terms.
  EXPECT_EQ(AddsLeft([](GraphBuilder& b, ValueId x, ValueId gain, ValueId r) {
              const ValueId two = Add(b, x, Scale(b, x, 2));
              b.Output("y", Add(b, two, Grad(b, x, gain, r)));
            }),
            0);
  EXPECT_EQ(AddsLeft([](GraphBuilder& b, ValueId x, ValueId gain, ValueId r) {
              const ValueId two = Add(b, x, Scale(b, x, 2));
              b.Output("two", two);
              b.Output("y", Add(b, two, Grad(b, x, gain, r)));
            }),
            1);
}

// The gradients of FedNorm's two inputs: one cannot wait for what the other
// makes, nor for what comes behind where it is read.
TEST(AddInStoresTest, ATermDoesNotMoveBehindAReaderOfItsSibling) {
  const auto make = [](bool early) {
    return AddsLeft([=](GraphBuilder& b, ValueId x, ValueId gain, ValueId r) {
      const std::vector<ValueId> d =
          b.Add(kFedNormInputGrad, {x, x, x, gain, gain, r, r});
      if (early) b.Output("early", Scale(b, d[1], 2));
      b.Output("y", Add(b, d[0], Scale(b, x, 2)));
      if (!early) b.Output("late", Scale(b, d[1], 2));
    });
  };
  EXPECT_EQ(make(/*early=*/true), 1);
  EXPECT_EQ(make(/*early=*/false), 0);
  EXPECT_EQ(AddsLeft([](GraphBuilder& b, ValueId x, ValueId gain, ValueId r) {
              const std::vector<ValueId> d =
                  b.Add(kFedNormInputGrad, {x, x, x, gain, gain, r, r});
              b.Output("y", Add(b, d[0], d[1]));
            }),
            1);
}

}  // namespace
}  // namespace strata
