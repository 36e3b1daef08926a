// Properties of the gates over random weights and tokens, whatever a training
// may have made of them.

#include "core/model/gate.h"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <memory>
#include <random>
#include <set>
#include <string>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "core/cpu/all_kernels.h"
#include "core/cpu/cpu_backend.h"
#include "core/graph/builder.h"
#include "core/graph/graph.h"
#include "core/graph/op_def.h"
#include "core/model/config.h"
#include "core/model/moe.h"
#include "core/runtime/program.h"
#include "core/runtime/state_store.h"
#include "core/tensor/dtype.h"
#include "core/testing/status_matchers.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace strata {
namespace {

using ::testing::Each;
using ::testing::ElementsAre;

constexpr int64_t kTokens = 300;  // Several chunks of rows for any gate here.

ModelConfig Hierarchical(std::vector<int> tiers, int k_min, int k_max,
                         double tau, double coarse_keep) {
  ModelConfig config = *ModelPreset("demo");
  config.set_d_model(32);
  config.mutable_moe()->set_expert_width(8);
  HierarchicalRouterConfig& gate =
      *config.mutable_moe()->mutable_hierarchical();
  gate.clear_tier_experts();
  for (const int experts : tiers) gate.add_tier_experts(experts);
  gate.set_k_min(k_min);
  gate.set_k_max(k_max);
  gate.set_tau(tau);
  gate.clear_tau_start();
  gate.set_coarse_keep(coarse_keep);
  gate.set_exit_threshold(0);
  gate.set_energy_groups(8);
  gate.set_fine_width(8);
  EXPECT_THAT(Validate(config), IsOk());
  return config;
}

ModelConfig Flat(int num_experts, int k) {
  ModelConfig config = *ModelPreset("demo");
  config.set_d_model(32);
  config.mutable_moe()->set_expert_width(8);
  FlatRouterConfig& flat = *config.mutable_moe()->mutable_flat();
  flat.set_num_experts(num_experts);
  flat.set_k(k);
  flat.set_normalize(true);
  return config;
}

// DeepSeek-V3's, whose weights sum to 2.5.
ModelConfig DeepSeek() {
  ModelConfig config = Flat(16, 4);
  FlatRouterConfig& flat = *config.mutable_moe()->mutable_flat();
  flat.set_score(FlatRouterConfig::SIGMOID);
  flat.set_scale(2.5);
  flat.set_correction_bias(true);
  flat.set_num_groups(4);
  flat.set_top_groups(2);
  EXPECT_THAT(Validate(config), IsOk());
  return config;
}

struct Route {
  std::vector<int32_t> expert;  // [tokens, columns]
  std::vector<float> weight;    // Likewise.
  int64_t columns = 0;

  std::set<int32_t> Chosen(int64_t token) const {
    std::set<int32_t> chosen;
    for (int64_t j = 0; j < columns; ++j) {
      const int32_t e = expert[token * columns + j];
      if (e >= 0) chosen.insert(e);
    }
    return chosen;
  }
  float WeightOf(int64_t token, int32_t e) const {
    for (int64_t j = 0; j < columns; ++j) {
      if (expert[token * columns + j] == e) return weight[token * columns + j];
    }
    return 0;
  }
};

// A gate as a program: of the first tier, where there are tiers.
class Gate {
 public:
  explicit Gate(const ModelConfig& config, int num_threads = 2)
      : backend_(num_threads, AllCpuKernels()), state_(backend_) {
    GraphBuilder b;
    const ValueId count = b.Input("t", DType::kI32, {});
    const ValueId x = b.Input(
        "x", DType::kF32, {Ragged(kTokens, count), Static(config.d_model())});
    const bool flat = config.moe().has_flat();
    const Routing routing =
        flat ? FlatGate(b, config, x, {})
             : TierGate(b, config, config.moe().hierarchical().tier_experts(0),
                        x, {});
    if (routing.bias != kNone) bias_ = b.graph().value(routing.bias).name;
    b.Output("expert", routing.expert);
    b.Output("weight", routing.weight);
    auto program = Program::Compile(*b.Finish(), backend_, state_);
    EXPECT_THAT(program, IsOk());
    program_ = *std::move(program);
    *program_->Input("t").as<int32_t>() = kTokens;
  }

  // Weights, tokens and bias are normal numbers; those of the bias times
  // `bias_scale`. Weights are large enough for scores far from each other.
  void Fill(uint32_t seed, float bias_scale) {
    std::mt19937 rng(seed);
    std::normal_distribution<float> normal;
    for (const std::string& name : state_.names()) {
      if (name == bias_) continue;
      for (float& v : state_.Get(name).span<float>()) v = 0.5f * normal(rng);
    }
    for (float& v : program_->Input("x").span<float>()) v = normal(rng);
    FillBias(seed + 1, bias_scale);
  }
  void FillBias(uint32_t seed, float scale) {
    if (bias_.empty()) return;
    std::mt19937 rng(seed);
    std::normal_distribution<float> normal;
    for (float& v : state_.Get(bias_).span<float>()) v = scale * normal(rng);
  }

  Route Run() {
    EXPECT_THAT(program_->Run(), IsOk());
    const auto expert = program_->Output("expert").span<int32_t>();
    const auto weight = program_->Output("weight").span<float>();
    return {{expert.begin(), expert.end()},
            {weight.begin(), weight.end()},
            program_->Output("expert").dim(1)};
  }

 private:
  CpuBackend backend_;
  StateStore state_;
  std::unique_ptr<Program> program_;
  std::string bias_;  // Empty where there is none.
};

std::vector<ModelConfig> RandomTiers() {
  std::mt19937 rng(11);
  std::vector<ModelConfig> configs;
  for (const int experts : {1, 2, 5, 16, 17, 48}) {
    for (const double coarse_keep : {0.5, 1.0}) {
      const int survivors =
          std::max(1, static_cast<int>(std::ceil(experts * coarse_keep)));
      const int k_max = 1 + static_cast<int>(rng() % survivors);
      const int k_min = 1 + static_cast<int>(rng() % k_max);
      const double tau = (1 + rng() % 100) / 100.0;
      configs.push_back(
          Hierarchical({experts}, k_min, k_max, tau, coarse_keep));
    }
  }
  return configs;
}

std::vector<ModelConfig> FlatGates() {
  ModelConfig top_p = Flat(16, 6);
  top_p.mutable_moe()->mutable_flat()->set_choice(FlatRouterConfig::TOP_P);
  top_p.mutable_moe()->mutable_flat()->set_top_p(0.5);
  ModelConfig raw = Flat(16, 3);
  raw.mutable_moe()->mutable_flat()->set_normalize(false);
  return {Flat(8, 2), Flat(33, 33), DeepSeek(), top_p, raw};
}

TEST(TierGateTest, ChoosesDistinctExpertsWithinTheBounds) {
  for (const ModelConfig& config : RandomTiers()) {
    const HierarchicalRouterConfig& hierarchical = config.moe().hierarchical();
    SCOPED_TRACE(hierarchical.ShortDebugString());
    Gate gate(config);
    gate.Fill(/*seed=*/1, /*bias_scale=*/0.3f);
    const Route route = gate.Run();

    ASSERT_EQ(route.columns, hierarchical.k_max());
    for (int64_t i = 0; i < kTokens; ++i) {
      int64_t count = 0;
      for (int64_t j = 0; j < route.columns; ++j) {
        const int32_t e = route.expert[i * route.columns + j];
        ASSERT_LT(e, hierarchical.tier_experts(0));
        if (e < 0) {
          EXPECT_EQ(route.weight[i * route.columns + j], 0);
        } else {
          ASSERT_EQ(j, count++) << "a gap in the list of token " << i;
        }
      }
      EXPECT_GE(count, hierarchical.k_min());
      EXPECT_EQ(static_cast<int64_t>(route.Chosen(i).size()), count);
    }
  }
}

TEST(TierGateTest, WeightsSumToOneOrLessWhereLittleIsWorthIt) {
  for (const ModelConfig& config : RandomTiers()) {
    Gate gate(config);
    gate.Fill(2, 0.3f);
    const Route route = gate.Run();
    for (int64_t i = 0; i < kTokens; ++i) {
      double sum = 0;
      for (int64_t j = 0; j < route.columns; ++j) {
        const float w = route.weight[i * route.columns + j];
        EXPECT_GE(w, 0);
        sum += w;
      }
      EXPECT_GT(sum, 0);
      // A division and a product an expert, half an ulp each.
      EXPECT_LE(sum, 1 + 1e-6);
    }
  }
}

TEST(FlatGateTest, ChoosesAsManyAndWeighsThemAsTheConfigSays) {
  for (const ModelConfig& config : FlatGates()) {
    const FlatRouterConfig& flat = config.moe().flat();
    SCOPED_TRACE(flat.ShortDebugString());
    Gate gate(config);
    gate.Fill(3, 0.3f);
    const Route route = gate.Run();
    for (int64_t i = 0; i < kTokens; ++i) {
      const auto count = static_cast<int64_t>(route.Chosen(i).size());
      if (flat.choice() == FlatRouterConfig::TOP_K) {
        EXPECT_EQ(count, flat.k());
      } else {
        EXPECT_GE(count, 1);
        EXPECT_LE(count, flat.k());
      }
      double sum = 0;
      for (int64_t j = 0; j < route.columns; ++j) {
        sum += route.weight[i * route.columns + j];
      }
      const double scale = flat.scale() == 0 ? 1 : flat.scale();
      if (flat.normalize()) {
        EXPECT_NEAR(sum, scale, 1e-5);
      } else {
        EXPECT_LE(sum, scale + 1e-5);
      }
    }
  }
}

std::vector<ModelConfig> AllGates() {
  std::vector<ModelConfig> all = FlatGates();
  for (const ModelConfig& config : RandomTiers()) all.push_back(config);
  ModelConfig expert_choice = Flat(8, 2);
  expert_choice.mutable_moe()->mutable_flat()->set_choice(
      FlatRouterConfig::EXPERT_CHOICE);
  all.push_back(expert_choice);
  return all;
}

TEST(GateTest, RoutesAlikeOnAnyNumberOfThreads) {
  for (const ModelConfig& config : AllGates()) {
    SCOPED_TRACE(config.moe().ShortDebugString());
    Gate one(config, /*num_threads=*/1);
    one.Fill(4, 0.3f);
    const Route want = one.Run();
    for (const int num_threads : {2, 3, 5}) {
      Gate gate(config, num_threads);
      gate.Fill(4, 0.3f);
      const Route got = gate.Run();
      EXPECT_EQ(got.expert, want.expert);
      EXPECT_EQ(got.weight, want.weight);
    }
  }
}

// All weights are zero, so that all experts score alike.
TEST(GateTest, BreaksTiesTowardsTheLowerExpert) {
  for (const ModelConfig& config :
       {Hierarchical({16}, 1, 4, 0.5, 0.5), Hierarchical({9}, 3, 3, 0.5, 1.0),
        Flat(8, 3), DeepSeek()}) {
    SCOPED_TRACE(config.moe().ShortDebugString());
    const Route route = Gate(config).Run();
    for (int64_t i = 0; i < kTokens; ++i) {
      for (int64_t j = 0; j < route.columns; ++j) {
        EXPECT_EQ(route.expert[i * route.columns + j], j);
      }
    }
  }
}

// Where two biases lead to the same experts, in whatever order, weights are the
// same to the last bit; and they lead to others often enough.
TEST(GateTest, TheBiasNeverChangesAWeightOnlyTheChoice) {
  for (const ModelConfig& config :
       {Hierarchical({16}, 1, 8, 0.8, 1.0), Hierarchical({6}, 5, 5, 1.0, 1.0),
        Hierarchical({8}, 8, 8, 1.0, 1.0), DeepSeek()}) {
    SCOPED_TRACE(config.moe().ShortDebugString());
    Gate gate(config);
    gate.Fill(5, 0.0f);
    const Route without = gate.Run();
    int64_t num_same = 0, num_other_order = 0, num_other = 0;
    for (uint32_t seed = 6; seed < 12; ++seed) {
      gate.FillBias(seed, 0.2f);
      const Route with = gate.Run();
      for (int64_t i = 0; i < kTokens; ++i) {
        if (with.Chosen(i) != without.Chosen(i)) {
          ++num_other;
          continue;
        }
        ++num_same;
        num_other_order +=
            !std::equal(with.expert.begin() + i * with.columns,
                        with.expert.begin() + (i + 1) * with.columns,
                        without.expert.begin() + i * without.columns);
        for (const int32_t e : with.Chosen(i)) {
          ASSERT_EQ(with.WeightOf(i, e), without.WeightOf(i, e))
              << "expert " << e << " of token " << i;
        }
      }
    }
    EXPECT_GT(num_same, 100);
    EXPECT_GT(num_other_order, 50);
    if (config.moe().has_flat() || config.moe().hierarchical().tier_experts(0) >
                                       config.moe().hierarchical().k_min()) {
      EXPECT_GT(num_other, 0);
    }
  }
}

// --- What leaving early saves ---

struct TierCost {
  std::vector<int32_t> tokens;        // That reached each tier.
  std::vector<int32_t> rows;          // Of all experts of each tier.
  std::vector<double> flops;          // Of each tier's nodes, at these counts.
  std::vector<double> flops_of_none;  // Of the same, had no token come.
};

// A block of three tiers in evaluation, on `num_tokens` random tokens.
TierCost RunBlock(double exit_threshold, int32_t num_tokens) {
  // Two experts a token, so that rows say how many tokens had any.
  ModelConfig config = Hierarchical({4, 6, 5}, 2, 2, 0.5, 0.5);
  config.mutable_moe()->mutable_hierarchical()->set_exit_threshold(
      exit_threshold);
  CpuBackend backend(2, AllCpuKernels());
  StateStore state(backend);
  GraphBuilder b;
  const ValueId count = b.Input("t", DType::kI32, {});
  const ValueId h = b.Input("h", DType::kF32,
                            {Ragged(kTokens, count), Static(config.d_model())});
  MoeOptions options;
  options.num_tokens = count;
  std::vector<RouterValues> routers;
  b.Output("y", MoeBlock(b, config, options, h, routers));
  for (const RouterValues& router : routers) {
    b.Output(router.TokensName(), router.tokens);
    b.Output(router.OffsetName(), router.offset);
  }
  auto program = Program::Compile(*b.Finish(), backend, state);
  EXPECT_THAT(program, IsOk());
  std::mt19937 rng(21);
  std::normal_distribution<float> normal;
  for (const std::string& name : state.names()) {
    for (float& v : state.Get(name).span<float>()) v = 0.5f * normal(rng);
  }
  for (float& v : (*program)->Input("h").span<float>()) v = normal(rng);
  *(*program)->Input("t").as<int32_t>() = num_tokens;
  EXPECT_THAT((*program)->Run(), IsOk());

  TierCost cost;
  const Binding none = [](ValueId, int64_t) { return 0.0; };
  for (size_t tier = 0; tier < routers.size(); ++tier) {
    cost.tokens.push_back(
        *(*program)->Output(routers[tier].TokensName()).as<int32_t>());
    cost.rows.push_back(
        (*program)->Output(routers[tier].OffsetName()).span<int32_t>().back());
    double flops = 0, of_none = 0;
    const Graph& graph = (*program)->graph();
    for (const Node& node : graph.nodes()) {
      if (!absl::StrContains(node.scope, absl::StrCat("tier.", tier))) continue;
      flops += CostOf(graph, node, (*program)->LiveBinding()).flops;
      of_none += CostOf(graph, node, none).flops;
    }
    cost.flops.push_back(flops);
    cost.flops_of_none.push_back(of_none);
  }
  return cost;
}

TEST(EarlyExitTest, ATokenThatLeftCostsNothingInDeeperTiers) {
  const TierCost all = RunBlock(/*exit_threshold=*/0, kTokens);
  EXPECT_THAT(all.tokens, Each(kTokens));
  EXPECT_THAT(all.rows, Each(2 * kTokens));
  const TierCost some = RunBlock(/*exit_threshold=*/0.5, kTokens);

  EXPECT_EQ(some.tokens[0], kTokens);
  for (int tier = 0; tier < 3; ++tier) {
    // Whoever stays has two experts, whoever leaves none, and only the former
    // are tokens of the next tier.
    const int32_t stay = some.rows[tier] / 2;
    EXPECT_GT(stay, 0);
    EXPECT_LT(stay, some.tokens[tier]);
    if (tier < 2) {
      EXPECT_EQ(some.tokens[tier + 1], stay);
    }
  }
  // What a tier costs by the token, beside the experts' side of its gate, goes
  // with the tokens that reach it and, of these, those that stay.
  for (int tier = 1; tier < 3; ++tier) {
    EXPECT_EQ(some.flops_of_none[tier], all.flops_of_none[tier]);
    const double by_token = all.flops[tier] - all.flops_of_none[tier];
    const double now = some.flops[tier] - some.flops_of_none[tier];
    EXPECT_LT(now, by_token * some.tokens[tier] / kTokens);
    EXPECT_GT(now, by_token * some.rows[tier] / all.rows[tier]);
  }
}

TEST(EarlyExitTest, DeeperTiersCostNothingByTheTokenIfAllLeave) {
  const TierCost none = RunBlock(/*exit_threshold=*/0.9999, kTokens);

  EXPECT_THAT(none.tokens, ElementsAre(kTokens, 0, 0));
  EXPECT_THAT(none.rows, Each(0));
  for (int tier = 1; tier < 3; ++tier) {
    EXPECT_EQ(none.flops[tier], none.flops_of_none[tier]);
  }
}

}  // namespace
}  // namespace strata
