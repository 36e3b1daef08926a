#include "core/cpu/fused/expert_context_grad.h"

#include <cstdint>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "core/cpu/elementwise.h"
#include "core/cpu/fused/fused_gate.h"
#include "core/graph/builder.h"
#include "core/graph/graph.h"
#include "core/ops/elementwise.h"
#include "core/ops/fused_gate.h"
#include "core/passes/autodiff.h"
#include "core/tensor/bfloat16.h"
#include "core/tensor/dtype.h"
#include "core/testing/grad_check.h"
#include "core/testing/graph_run.h"
#include "core/testing/status_matchers.h"
#include "gtest/gtest.h"

namespace strata {
namespace {

constexpr int kInputs = kContextCrossO + 1;

struct Shape {
  int64_t experts = 5, r = 3;
};

std::vector<ValueId> Parameters(GraphBuilder& b, const Shape& shape) {
  std::vector<ValueId> inputs = {
      b.Parameter("embedding", {Static(shape.experts), Static(shape.r)})};
  for (int i = 1; i < kInputs; ++i) {
    inputs.push_back(
        b.Parameter(absl::StrCat("w", i), {Static(shape.r), Static(shape.r)}));
  }
  return inputs;
}

TEST(ExpertContextGradTest, AgreesWithDifferences) {
  for (const Shape& shape : {Shape{5, 3}, Shape{3, 6}, Shape{1, 4}}) {
    EXPECT_THAT(CheckGradients(
                    [&](GraphBuilder& b) -> std::vector<ValueId> {
                      const ExpertSide out =
                          ExpertContext(b, Parameters(b, shape), /*scale=*/0.7);
                      return {out.context, out.key, out.value};
                    },
                    {RegisterFusedGateKernels, RegisterExpertContextGradKernels,
                     RegisterElementwiseKernels}),
                IsOk());
  }
}

// A loss may depend on one or two of the outputs.
TEST(ExpertContextGradTest, AgreesWithDifferencesOfSomeOutputs) {
  for (int without = 1; without < 7; ++without) {
    EXPECT_THAT(CheckGradients(
                    [&](GraphBuilder& b) {
                      const ExpertSide out =
                          ExpertContext(b, Parameters(b, {}), /*scale=*/0.7);
                      std::vector<ValueId> some;
                      if ((without & 1) == 0) some.push_back(out.context);
                      if ((without & 2) == 0) some.push_back(out.key);
                      if ((without & 4) == 0) some.push_back(out.value);
                      return some;
                    },
                    {RegisterFusedGateKernels, RegisterExpertContextGradKernels,
                     RegisterElementwiseKernels}),
                IsOk());
  }
}

// Whether the phase is that of weights: of parameters alone it is, so that a
// pipeline may run it later; an embedding that some node made waits for it.
TEST(ExpertContextGradTest, IsAWeightGradientOfParametersAlone) {
  for (const bool is_made : {false, true}) {
    GraphBuilder b;
    std::vector<ValueId> inputs = Parameters(b, {});
    std::vector<ValueId> wanted = inputs;
    if (is_made) {
      const ValueId x = b.Input("x", DType::kF32, {Static(5), Static(3)});
      inputs[kContextEmbedding] = Add(b, inputs[kContextEmbedding], x);
    }
    const ExpertSide out = ExpertContext(b, inputs, /*scale=*/1);
    const ValueId grad = b.Input("grad", DType::kF32, {Static(5), Static(3)});
    ASSERT_THAT(Differentiate(b, {Seed{out.key, grad}}, wanted), IsOk());
    const auto graph = b.Finish();
    ASSERT_THAT(graph, IsOk());
    const Node& node = graph->nodes().back();
    ASSERT_EQ(node.op, &kExpertContextGrad);
    EXPECT_EQ(node.phase, is_made ? Phase::kInputGrad : Phase::kWeightGrad);
  }
}

// Weights in BF16 are widened, which is exact.
TEST(ExpertContextGradTest, OfBf16WeightsIsThatOfTheSameInF32) {
  const auto gradients = [](DType weights) {
    GraphRun run(
        [&](GraphBuilder& b) {
          const Dims of_experts = {Static(5), Static(3)};
          std::vector<ValueId> inputs;
          for (const char* const name : {"dcontext", "dkey", "dvalue", "e"}) {
            inputs.push_back(b.State(name, DType::kF32, of_experts));
          }
          for (int i = 1; i < kInputs; ++i) {
            inputs.push_back(
                b.State(absl::StrCat("w", i), weights, {Static(3), Static(3)}));
          }
          const std::vector<ValueId> grads =
              b.Add(kExpertContextGrad, inputs, {{"scale", 0.5}});
          for (int i = 0; i < kInputs; ++i) {
            b.Output(absl::StrCat("grad", i), grads[i]);
          }
        },
        {RegisterExpertContextGradKernels});
    run.SetAll([](const std::string& name, const TensorView& view) {
      const std::vector<double> values =
          Normal(view.num_elements(), static_cast<uint32_t>(name.back()));
      for (size_t i = 0; i < values.size(); ++i) {
        const BFloat16 x = RoundToBFloat16(static_cast<float>(values[i]));
        if (view.dtype == DType::kBF16) {
          view.as<BFloat16>()[i] = x;
        } else {
          view.as<float>()[i] = Widen(x);
        }
      }
    });
    EXPECT_THAT(run.Run(), IsOk());
    std::vector<std::vector<float>> all;
    for (int i = 0; i < kInputs; ++i) {
      all.push_back(run.Get<float>(absl::StrCat("grad", i)));
    }
    return all;
  };

  EXPECT_EQ(gradients(DType::kBF16), gradients(DType::kF32));
}

}  // namespace
}  // namespace strata
