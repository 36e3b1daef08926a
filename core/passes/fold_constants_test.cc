#include "core/passes/fold_constants.h"

#include <cstdint>
#include <memory>
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
#include "core/model/init.h"
#include "core/model/tiny_configs.h"
#include "core/ops/elementwise.h"
#include "core/ops/matmul.h"
#include "core/runtime/constants.h"
#include "core/runtime/program.h"
#include "core/runtime/state_store.h"
#include "core/testing/status_matchers.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace strata {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;

std::vector<std::string> OpNames(const Graph& graph) {
  std::vector<std::string> names;
  for (const Node& node : graph.nodes()) names.emplace_back(node.op->name);
  return names;
}

// y = x (a + b) + c, where a + b and, of it, twice that are of parameters.
Graph SmallGraph(bool doubled_is_output) {
  GraphBuilder b;
  const ValueId x = b.Input("x", DType::kF32, {Static(3), Static(4)});
  const ValueId sum = Add(b, b.Parameter("a", {Static(4), Static(4)}),
                          b.Parameter("b", {Static(4), Static(4)}));
  const ValueId doubled = Scale(b, sum, 2);
  b.Output("y", Add(b, MatMul(b, x, doubled), MatMul(b, x, sum)));
  if (doubled_is_output) b.Output("doubled", doubled);
  auto graph = b.Finish();
  EXPECT_THAT(graph, IsOk());
  return *graph;
}

TEST(FoldConstantsTest, TakesOutWhatNoInputEnters) {
  const FoldedGraph folded = FoldConstants(SmallGraph(false));

  EXPECT_THAT(Verify(folded.constants), IsOk());
  EXPECT_THAT(Verify(folded.rest), IsOk());
  EXPECT_THAT(OpNames(folded.constants), ElementsAre("Add", "Scale"));
  EXPECT_THAT(OpNames(folded.rest), ElementsAre("MatMul", "MatMul", "Add"));
  EXPECT_EQ(folded.constants.outputs().size(), 2);
  for (const auto& [name, value] : folded.constants.outputs()) {
    const ValueId state = folded.rest.FindSource(name);
    ASSERT_NE(state, kNone) << name;
    EXPECT_EQ(folded.rest.value(state).role, Role::kState);
  }
  EXPECT_EQ(folded.rest.FindSource("a"), kNone);  // Nobody reads it any more.
}

TEST(FoldConstantsTest, OutputsOfTheGraphStay) {
  const FoldedGraph folded = FoldConstants(SmallGraph(true));

  EXPECT_THAT(Verify(folded.rest), IsOk());
  EXPECT_THAT(OpNames(folded.constants), ElementsAre("Add"));
  EXPECT_THAT(OpNames(folded.rest),
              ElementsAre("Scale", "MatMul", "MatMul", "Add"));
}

TEST(FoldConstantsTest, AGraphWithoutConstantsStaysWhatItIs) {
  GraphBuilder b;
  const ValueId x = b.Input("x", DType::kF32, {Static(3), Static(4)});
  b.Output("y", MatMul(b, x, b.Parameter("a", {Static(4), Static(4)})));
  const auto graph = b.Finish();
  ASSERT_THAT(graph, IsOk());

  const FoldedGraph folded = FoldConstants(*graph);

  EXPECT_THAT(OpNames(folded.constants), IsEmpty());
  EXPECT_EQ(ToText(folded.rest), ToText(*graph));
}

// A model whose gates have constants, with ragged values.
class DecoderStep {
 public:
  explicit DecoderStep(bool fold) {
    const ModelConfig config = Hierarchical();
    GraphBuilder b;
    DecoderOptions options;
    options.mode = DecoderOptions::Mode::kLogits;
    options.max_tokens = options.max_logits = 5;
    BuildDecoder(b, config, options);
    Graph graph = *b.Finish();
    const size_t num_nodes = graph.nodes().size();
    if (fold) {
      constants_ = *Constants::TakeOut(graph, backend_, state_);
      EXPECT_LT(graph.nodes().size(), num_nodes - 50);
    }
    program_ = *Program::Compile(std::move(graph), backend_, state_);
    InitializeParameters(config, /*seed=*/7, state_);
  }

  std::vector<float> Logits(bool update) {
    if (update) {
      EXPECT_THAT(constants_->Update(), IsOk());
    }
    const auto input = [&](const char* name) {
      return program_->Input(name).as<int32_t>();
    };
    *input("num_tokens") = 5;
    if (program_->HasInput("num_logits")) *input("num_logits") = 5;
    for (int32_t i = 0; i < 5; ++i) {
      input("ids")[i] = (7 * i + 3) % 11;
      input("position")[i] = i;
      if (program_->HasInput("logit_row")) input("logit_row")[i] = i;
    }
    input("seq_start")[0] = 0;
    input("seq_start")[1] = 5;
    EXPECT_THAT(program_->Run(), IsOk());
    const auto logits = program_->Output("logits").span<float>();
    return {logits.begin(), logits.end()};
  }
  StateStore& state() { return state_; }

 private:
  CpuBackend backend_{2, AllCpuKernels()};
  StateStore state_{backend_};
  std::unique_ptr<Constants> constants_;
  std::unique_ptr<Program> program_;
};

TEST(ConstantsTest, AFoldedModelGivesTheSameBitsAndFollowsItsParameters) {
  DecoderStep plain(/*fold=*/false), folded(/*fold=*/true);
  const std::vector<float> before = plain.Logits(/*update=*/false);
  EXPECT_EQ(folded.Logits(/*update=*/true), before);
  EXPECT_EQ(folded.Logits(/*update=*/false), before);

  // Experts that are others.
  const std::string name = "model.layers.0.mlp.tier.0.gate.expert.weight";
  for (DecoderStep* const step : {&plain, &folded}) {
    for (float& x : step->state().Get(name).span<float>()) x = 5 - x;
  }
  const std::vector<float> after = plain.Logits(/*update=*/false);
  EXPECT_NE(after, before);
  EXPECT_EQ(folded.Logits(/*update=*/true), after);
}

}  // namespace
}  // namespace strata
