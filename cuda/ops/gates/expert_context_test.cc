// The experts' side of gates, forward and backward, whose references on the CPU
// are held to the operators they stand for (core/passes/fuse) and to
// differences (core/cpu/fused/expert_context_grad_test.cc).

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <string>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "core/graph/builder.h"
#include "core/ops/fused_gate.h"
#include "core/tensor/bfloat16.h"
#include "core/tensor/dtype.h"
#include "core/testing/status_matchers.h"
#include "cuda/testing/both_backends.h"
#include "cuda/testing/test_inputs.h"
#include "gtest/gtest.h"

namespace strata::gpu {
namespace {

struct Gate {
  int64_t experts, r;
};

std::string GateName(const testing::TestParamInfo<Gate>& info) {
  return absl::StrCat(info.index, "_experts", info.param.experts, "_r",
                      info.param.r);
}

double Scale(const Gate& gate) {
  return 1 / std::sqrt(static_cast<double>(gate.r));
}

// Weights such that products keep the size of what they multiply.
FillFn FillWeights() {
  return [](const std::string& name, const TensorView& view) {
    if (!absl::StartsWith(name, "w")) return false;
    const auto by_r =
        1 / std::sqrt(static_cast<float>(view.dim(view.rank() - 1)));
    const std::vector<int32_t> steps = RandomInts(
        view.num_elements(), -100, 100, static_cast<int>(name.size()));
    for (int64_t i = 0; i < view.num_elements(); ++i) {
      const float x = by_r * static_cast<float>(steps[i]) / 64;
      if (view.dtype == DType::kBF16) {
        view.as<BFloat16>()[i] = RoundToBFloat16(x);
      } else {
        view.as<float>()[i] = x;
      }
    }
    return true;
  };
}

// The longest way, from an embedding by queries, shares, and values to a key
// and back, is nine sums, of as many terms as a row has or experts there are.
double Roundings(const Gate& gate) {
  return 9 * (8 + static_cast<double>(std::max(gate.experts, gate.r)));
}

std::vector<ValueId> Inputs(GraphBuilder& b, const Gate& gate,
                            const std::string& of) {
  std::vector<ValueId> inputs = {b.Parameter(
      absl::StrCat("e", of), {Static(gate.experts), Static(gate.r)})};
  for (int i = kContextQ; i <= kContextCrossO; ++i) {
    inputs.push_back(b.Parameter(absl::StrCat("w", of, "_", i),
                                 {Static(gate.r), Static(gate.r)}));
  }
  return inputs;
}

using ExpertContextTest = DeviceTest<Gate>;

TEST_P(ExpertContextTest, AndItsGradientAgreeWithTheCpu) {
  const Gate& gate = GetParam();
  EXPECT_THAT(CompareBackends(
                  [&](GraphBuilder& b) -> std::vector<ValueId> {
                    const ExpertSide out =
                        ExpertContext(b, Inputs(b, gate, ""), Scale(gate));
                    return {out.context, out.key, out.value};
                  },
                  {Roundings(gate), FillWeights()}),
              IsOk());
}

// Weights in BF16, and gradients of two of the outputs alone.
TEST_P(ExpertContextTest, OfBf16WeightsAndSomeOutputsAgreesWithTheCpu) {
  const Gate& gate = GetParam();
  const Dims of_experts = {Static(gate.experts), Static(gate.r)};
  for (int without = 0; without < kContextGrads; ++without) {
    EXPECT_THAT(
        CompareBackends(
            [&](GraphBuilder& b) {
              std::vector<ValueId> inputs = {
                  b.State("embedding", DType::kF32, of_experts)};
              for (int i = kContextQ; i <= kContextCrossO; ++i) {
                inputs.push_back(b.State(absl::StrCat("w", i), DType::kBF16,
                                         {Static(gate.r), Static(gate.r)}));
              }
              const ExpertSide out = ExpertContext(b, inputs, Scale(gate));
              b.Output("context", out.context);
              b.Output("key", out.key);
              b.Output("value", out.value);
              std::vector<ValueId> backward;
              for (int i = 0; i < kContextGrads; ++i) {
                const ValueId grad =
                    b.Input(absl::StrCat("dy", i), DType::kF32, of_experts);
                backward.push_back(i == without ? kNone : grad);
              }
              backward.insert(backward.end(), inputs.begin(), inputs.end());
              const std::vector<ValueId> grads =
                  b.Add(kExpertContextGrad, backward, {{"scale", Scale(gate)}});
              for (int i = kContextEmbedding; i <= kContextCrossO; ++i) {
                b.Output(absl::StrCat("grad", i), grads[i]);
              }
              return std::vector<ValueId>{};
            },
            {Roundings(gate), FillWeights()}),
        IsOk())
        << without;
  }
}

// About the presets'; rows that are no vectors; one expert; and, the last two,
// more than a block has room for: backward alone, and forward too.
INSTANTIATE_TEST_SUITE_P(Gates, ExpertContextTest,
                         testing::Values(Gate{48, 32}, Gate{16, 32},
                                         Gate{8, 32}, Gate{47, 32},
                                         Gate{16, 64}, Gate{1, 4}, Gate{5, 6},
                                         Gate{33, 13}, Gate{64, 64},
                                         Gate{100, 64}),
                         GateName);

// Gates of several shapes in one call, more than a launch has room for.
using ManyContextsTest = DeviceTest<int>;

TEST_P(ManyContextsTest, AgreeWithTheCpu) {
  EXPECT_THAT(
      CompareBackends(
          [&](GraphBuilder& b) {
            std::vector<ValueId> outputs;
            for (int i = 0; i < GetParam(); ++i) {
              const Gate gate = {1 + i % 9, 4 + i % 5};
              const ExpertSide out = ExpertContext(
                  b, Inputs(b, gate, absl::StrCat(i)), /*scale=*/0.5);
              outputs.insert(outputs.end(), {out.context, out.key, out.value});
            }
            return outputs;
          },
          {Roundings({9, 8}), FillWeights()}),
      IsOk());
}

INSTANTIATE_TEST_SUITE_P(Counts, ManyContextsTest,
                         testing::Values(2, 160, 161, 249),
                         testing::PrintToStringParamName());

}  // namespace
}  // namespace strata::gpu
