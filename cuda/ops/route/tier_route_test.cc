#include "core/ops/tier_route.h"

#include <cmath>
#include <cstdint>
#include <random>
#include <string>
#include <vector>

#include "absl/strings/match.h"
#include "core/graph/builder.h"
#include "core/graph/graph.h"
#include "core/model/config.pb.h"
#include "core/model/gate.h"
#include "core/tensor/bfloat16.h"
#include "core/tensor/dtype.h"
#include "core/tensor/tensor.h"
#include "core/testing/status_matchers.h"
#include "cuda/runtime/kernel.h"
#include "cuda/testing/both_backends.h"
#include "cuda/testing/test_inputs.h"
#include "gtest/gtest.h"

// A tier's gate in training, as one operator on the GPU and as the operators it
// stands for on the CPU: choices, weights, losses, and the gradients of all
// that the gate learns.

namespace strata::gpu {
namespace {

struct Gate {
  const char* name;
  int64_t tokens, experts, groups, width, r;
  int64_t k_max = 8;
  bool add_coarse = true;
  double keep = 0.5;
  double tau = 0.75;
  Precision precision = Precision::kF32;
  bool bf16_key = false;  // As training may hold it.
};

constexpr int64_t kColumns = 48;  // Of x.

ModelConfig ConfigOf(const Gate& g) {
  ModelConfig config;
  config.set_d_model(kColumns);
  HierarchicalRouterConfig& gate =
      *config.mutable_moe()->mutable_hierarchical();
  gate.add_tier_experts(g.experts);
  gate.set_k_min(1);
  gate.set_k_max(g.k_max);
  gate.set_tau(g.tau);
  gate.set_energy_groups(g.groups);
  gate.set_energy_dim(g.width);
  gate.set_add_coarse(g.add_coarse);
  gate.set_coarse_keep(g.keep);
  gate.set_fine_width(g.r);
  gate.set_distill_weight(0.01);
  gate.set_cost_weight(0.003);
  gate.set_balance_weight(0.03);
  return config;
}

// The weights and the losses; choices as an output by itself.
std::vector<ValueId> Build(GraphBuilder& b, const Gate& g, bool fused) {
  const ValueId x = FloatInput(b, "x", RaggedRows(b, g.tokens), kColumns);
  GateOptions options;
  options.train = true;
  options.fused = fused;
  const Routing routing = TierGate(b, ConfigOf(g), g.experts, x, options);
  // Of nearly equal scores BF16 may order two otherwise.
  if (g.precision == Precision::kF32) b.Output("expert", routing.expert);
  std::vector<ValueId> results = {routing.weight};
  for (const GateLoss& loss : routing.losses) results.push_back(loss.loss);
  return results;
}

// `narrow`: numbers that BF16 can hold.
void FillScaled(const std::string& name, double scale, bool narrow,
                const TensorView& view) {
  uint32_t seed = 7;
  for (const char c : name) seed = seed * 31 + static_cast<uint8_t>(c);
  std::mt19937 rng(seed);
  std::normal_distribution<float> normal(0, static_cast<float>(scale));
  for (int64_t i = 0; i < view.num_elements(); ++i) {
    const float x = normal(rng);
    if (view.dtype == DType::kBF16) {
      view.as<BFloat16>()[i] = RoundToBFloat16(x);
    } else {
      view.as<float>()[i] = narrow ? Widen(RoundToBFloat16(x)) : x;
    }
  }
}

// Of ConfigOf() with one tier.
std::string KeyName(const Graph& graph) {
  for (const Value& value : graph.values()) {
    if (absl::EndsWith(value.name, "gate.key.weight")) return value.name;
  }
  return "";
}

class TierRouteTest : public DeviceTest<Gate> {};

TEST_P(TierRouteTest, IsWhatItStandsForAndLearnsAsThat) {
  const Gate& g = GetParam();
  GraphBuilder b;
  Build(b, g, /*fused=*/true);
  ASSERT_THAT(b.status(), IsOk());
  bool is_one = false;
  for (const Node& node : b.graph().nodes()) is_one |= node.op == &kTierRoute;
  ASSERT_TRUE(is_one);

  CompareOptions options;
  options.precision = g.precision;
  if (g.bf16_key) options.bf16_on_gpu = {KeyName(b.graph())};
  options.on_gpu = [&](GraphBuilder& builder) {
    return Build(builder, g, /*fused=*/true);
  };
  // A gradient of the experts' is a sum over tokens, of terms that went through
  // ten operators, and of differences of such.
  options.roundings = g.precision == Precision::kBf16
                          ? 16
                          : 60 + 4 * std::sqrt(static_cast<double>(g.tokens));
  options.fill =
      WithRows(g.tokens, [&](const std::string& name, const TensorView& view) {
        if (name == "seed0" && g.precision == Precision::kBf16) {
          // The same for all slots of a token, whatever their order.
          for (int64_t i = 0; i < view.num_elements(); ++i) {
            view.as<float>()[i] = static_cast<float>(i / g.k_max % 5) - 2;
          }
          return true;
        }
        double scale = 1;
        const bool is_key = absl::EndsWith(name, "gate.key.weight");
        if (absl::EndsWith(name, "token.weight")) {
          scale = 1 / std::sqrt(static_cast<double>(kColumns));
        } else if (is_key) {
          scale = 1 / std::sqrt(static_cast<double>(g.groups));
        } else if (absl::EndsWith(name, "gate.bias")) {
          // Slots go by p and bias: only without one are close p in order of
          // close weights.
          scale = g.precision == Precision::kBf16 ? 0 : 0.1;
        } else if (absl::StrContains(name, ".self.") ||
                   absl::StrContains(name, ".cross.")) {
          scale = 1 / std::sqrt(static_cast<double>(g.r));
        } else {
          return false;
        }
        FillScaled(name, scale, g.bf16_key && is_key, view);
        return true;
      });
  EXPECT_THAT(
      CompareBackends(
          [&](GraphBuilder& builder) { return Build(builder, g, false); },
          options),
      IsOk());
}

// One token, a tile, both sides of a tile of 16 and of 32, more tiles than
// blocks; experts of less than a lane, whole tiles and not, and the most.
INSTANTIATE_TEST_SUITE_P(
    Gates, TierRouteTest,
    testing::Values(
        Gate{"one", 1, 16, 64, 1, 32}, Gate{"few", 15, 8, 16, 1, 16, 4},
        Gate{"tile", 16, 32, 64, 1, 32}, Gate{"more", 33, 48, 64, 1, 32},
        Gate{"odd", 100, 13, 9, 3, 10, 5},
        Gate{"no_coarse", 70, 16, 64, 1, 32, 8, /*add_coarse=*/false},
        Gate{"wide_slices", 40, 20, 2, 40, 24},
        Gate{"most", 65, 64, 128, 1, 64, 64},
        Gate{"all_taken", 50, 12, 24, 1, 16, 12, true, /*keep=*/1, /*tau=*/1},
        Gate{"tiles_of_32", 2150, 16, 32, 1, 16, 4},
        Gate{"many_tiles", 4300, 16, 32, 1, 16, 4},
        Gate{"bf16", 200, 32, 64, 1, 32, 32, true, 1, 1, Precision::kBf16},
        Gate{"bf16_tiles_of_32", 2200, 8, 16, 1, 16, 8, true, 1, 1,
             Precision::kBf16},
        Gate{"bf16_key", 33, 48, 64, 1, 32, 8, true, 0.5, 0.75, Precision::kF32,
             /*bf16_key=*/true},
        Gate{"odd_bf16_key", 100, 13, 9, 3, 10, 5, true, 0.5, 0.75,
             Precision::kF32, /*bf16_key=*/true}),
    [](const auto& info) { return info.param.name; });

TEST(TierRouteLimitsTest, WiderGatesKeepTheirOperators) {
  for (const Gate& g :
       {Gate{"experts", 4, 65, 64, 1, 32}, Gate{"queries", 4, 16, 64, 1, 65},
        Gate{"energies", 4, 16, 43, 3, 32}}) {
    GraphBuilder b;
    Build(b, g, /*fused=*/true);
    ASSERT_THAT(b.status(), IsOk());
    for (const Node& node : b.graph().nodes()) {
      EXPECT_NE(node.op, &kTierRoute) << g.name;
    }
  }
}

}  // namespace
}  // namespace strata::gpu
