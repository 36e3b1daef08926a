// Holds the fused graph to the one it was made from.

#include "core/passes/fuse/fuse.h"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <map>
#include <memory>
#include <random>
#include <string>
#include <tuple>
#include <vector>

#include "core/cpu/all_kernels.h"
#include "core/cpu/batch_invariant.h"
#include "core/graph/graph.h"
#include "core/graph/op_def.h"
#include "core/model/config.h"
#include "core/model/config.pb.h"
#include "core/passes/fuse/block_summary.h"
#include "core/passes/fuse/fuse_models.h"
#include "core/passes/narrow_weights.h"
#include "core/quant/cache_format.h"
#include "core/testing/status_matchers.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace strata {
namespace {

using ::testing::Contains;
using ::testing::ElementsAre;
using ::testing::Not;
using ::testing::TestWithParam;
using ::testing::Values;

constexpr int64_t kBlocks = 130;

std::vector<ModelConfig> AllModels() {
  return {DenseModel(),  BiasedModel(),      FlatModel(),        GroupedModel(),
          LatentModel(), PlainLatentModel(), HierarchicalModel()};
}

StepOptions Paged() {
  StepOptions options;
  options.cache_blocks = kBlocks;
  return options;
}

// Where sums are made in another order: a logit is a sum over 24 columns,
// behind two layers of sums over at most 160 keys and 40 columns, so some
// hundred roundings, each of half the last place, whose sizes add up.
constexpr double kRoundings = 400;

double Epsilon(DType dtype) {
  return std::pow(2.0, dtype == DType::kF64 ? -53 : -24);
}

// The largest difference, by the largest value.
double Distance(const std::vector<double>& a, const std::vector<double>& b) {
  EXPECT_EQ(a.size(), b.size());
  double most = 0, size = 1e-30;
  for (size_t i = 0; i < std::min(a.size(), b.size()); ++i) {
    most = std::max(most, std::abs(a[i] - b[i]));
    size = std::max(size, std::abs(b[i]));
  }
  return most / size;
}

struct Case {
  const char* name;
  ModelConfig (*config)();
  bool paged;
};

class FusedStepTest : public TestWithParam<Case> {
 protected:
  std::unique_ptr<StepModel> Make(KernelRegistry kernels, StepOptions options) {
    if (GetParam().paged) options.cache_blocks = kBlocks;
    auto model =
        StepModel::Create(GetParam().config(), std::move(kernels), options);
    EXPECT_THAT(model, IsOk());
    return model.ok() ? *std::move(model) : nullptr;
  }

  // That both make the same of every number of tokens, on both sides of what
  // few tokens are, of a gate's piece and of one and two tiles: bit for bit
  // where attention goes by pages or over a packed cache. Over one of rows it
  // takes runs of up to 32 tokens at a time, which a tile's end cuts, and then
  // rounds otherwise.
  void ExpectSame(const StepOptions& options) {
    const bool exactly = GetParam().paged || options.cache != CacheFormat::kF32;
    StepOptions plain = options;
    plain.fuse = false;
    const auto want = Make(BatchInvariantCpuKernels(), plain);
    const auto got = Make(BatchInvariantCpuKernels(), options);
    ASSERT_NE(want, nullptr);
    ASSERT_NE(got, nullptr);
    ASSERT_LT(got->program().graph().nodes().size(),
              want->program().graph().nodes().size());
    for (const int64_t tokens : {1, 2, 5, 31, 32, 33, 63, 64, 65, 128, 130}) {
      ASSERT_THAT(want->Run(tokens), IsOk());
      ASSERT_THAT(got->Run(tokens), IsOk());
      const auto expected = want->Results();
      for (const auto& [name, values] : got->Results()) {
        if (exactly) {
          EXPECT_EQ(values, expected.at(name)) << name << ", " << tokens;
        } else {
          EXPECT_LE(Distance(values, expected.at(name)),
                    kRoundings * Epsilon(options.compute))
              << name << ", " << tokens;
        }
      }
    }
  }
};

TEST_P(FusedStepTest, IsTheSameInF32) { ExpectSame({}); }

TEST_P(FusedStepTest, IsTheSameInF64) {
  StepOptions options;
  options.compute = DType::kF64;
  ExpectSame(options);
}

TEST_P(FusedStepTest, IsTheSameOverCachesInBf16) {
  StepOptions options;
  options.cache = CacheFormat::kBF16;
  ExpectSame(options);
}

TEST_P(FusedStepTest, IsTheSameOverCachesInCodes) {
  for (const CacheFormat format : {CacheFormat::kInt8, CacheFormat::kInt4}) {
    for (const int bits : {0, 5}) {
      StepOptions options;
      options.cache = format;
      options.attention_bits = bits;
      ExpectSame(options);
    }
  }
}

TEST_P(FusedStepTest, ReadsWeightsInBf16InPlace) {
  StepOptions options;
  options.narrow = true;
  ExpectSame(options);
}

TEST_P(FusedStepTest, NumberOfThreadsChangesNothing) {
  StepOptions options;
  options.num_threads = 1;
  const auto one = Make(BatchInvariantCpuKernels(), options);
  options.num_threads = 3;
  options.reuse_memory = false;
  const auto three = Make(BatchInvariantCpuKernels(), options);
  ASSERT_THAT(one->Run(70), IsOk());
  ASSERT_THAT(three->Run(70), IsOk());
  EXPECT_EQ(one->Results(), three->Results());
}

// The kernels of training round otherwise.
TEST_P(FusedStepTest, IsCloseToTheKernelsOfTraining) {
  if (GetParam().paged) GTEST_SKIP() << "they have no paged attention";
  StepOptions options;
  options.fuse = false;
  const auto want = Make(AllCpuKernels(), options);
  const auto got = Make(AllCpuKernels(), {});
  for (const int64_t tokens : {1, 64, 130}) {
    ASSERT_THAT(want->Run(tokens), IsOk());
    ASSERT_THAT(got->Run(tokens), IsOk());
    EXPECT_LE(
        Distance(got->Results().at("logits"), want->Results().at("logits")),
        kRoundings * Epsilon(DType::kF32))
        << tokens;
  }
}

INSTANTIATE_TEST_SUITE_P(
    Models, FusedStepTest,
    Values(Case{"Dense", DenseModel, false},
           Case{"DensePaged", DenseModel, true},
           Case{"Biased", BiasedModel, false},
           Case{"BiasedPaged", BiasedModel, true},
           Case{"FlatPaged", FlatModel, true},
           Case{"Grouped", GroupedModel, false},
           Case{"GroupedPaged", GroupedModel, true},
           Case{"Latent", LatentModel, false},
           Case{"LatentPaged", LatentModel, true},
           Case{"PlainLatentPaged", PlainLatentModel, true},
           Case{"HierarchicalPaged", HierarchicalModel, true}),
    [](const auto& info) { return info.param.name; });

// --- Shapes ---

// A model of one of the kinds, of random widths on both sides of vectors and
// pieces.
ModelConfig RandomModel(int seed) {
  std::mt19937 rng(seed);
  const auto between = [&](int64_t low, int64_t high) {
    return std::uniform_int_distribution<int64_t>(low, high)(rng);
  };
  const std::vector<ModelConfig> models = AllModels();
  ModelConfig config = models[seed % models.size()];
  config.set_d_model(between(9, 150));
  config.set_num_layers(1);
  config.set_num_dense_layers(config.has_moe() ? 0 : 1);
  AttentionConfig& attention = *config.mutable_attention();
  const int64_t kv_heads = between(1, 3);
  attention.set_num_heads(kv_heads * between(1, 3));
  if (attention.has_latent()) {
    LatentAttentionConfig& latent = *attention.mutable_latent();
    if (latent.q_rank() > 0) latent.set_q_rank(between(3, 40));
    latent.set_kv_rank(between(3, 40));
    latent.set_nope_dim(between(1, 20));
    latent.set_rope_dim(2 * between(1, 10));
    latent.set_value_dim(between(1, 20));
  } else {
    attention.set_num_kv_heads(kv_heads);
    attention.set_head_dim(2 * between(1, 20));
  }
  if (!config.has_moe()) {
    config.set_dense_width(between(3, 200));
    return config;
  }
  MoeConfig& moe = *config.mutable_moe();
  moe.set_expert_width(between(3, 90));
  if (moe.shared_width() > 0) moe.set_shared_width(between(3, 90));
  if (moe.has_flat() && moe.flat().num_groups() == 0) {
    moe.mutable_flat()->set_num_experts(between(3, 40));
    moe.mutable_flat()->set_k(between(1, 3));
  }
  if (moe.has_hierarchical()) {
    moe.mutable_hierarchical()->set_fine_width(between(3, 40));
    moe.mutable_hierarchical()->set_energy_groups(between(2, 20));
  }
  return config;
}

TEST(FuseTest, RandomShapesAreBitEqual) {
  for (int seed = 0; seed < 28; ++seed) {
    const ModelConfig config = RandomModel(seed);
    StepOptions options = Paged();
    options.narrow = seed % 2 == 1;
    // Of every kind of model some.
    if (seed / 7 % 2 == 1) {
      options.cache = seed % 3 == 0 ? CacheFormat::kInt8 : CacheFormat::kBF16;
    }
    auto fused = StepModel::Create(config, BatchInvariantCpuKernels(), options);
    options.fuse = false;
    auto plain = StepModel::Create(config, BatchInvariantCpuKernels(), options);
    ASSERT_THAT(fused, IsOk());
    ASSERT_THAT(plain, IsOk());
    for (const int64_t tokens : {1 + seed, 64 + seed}) {
      ASSERT_THAT((*plain)->Run(tokens), IsOk());
      ASSERT_THAT((*fused)->Run(tokens), IsOk());
      EXPECT_EQ((*fused)->Results(), (*plain)->Results())
          << config.name() << ", seed " << seed << ", " << tokens;
    }
  }
}

// Every preset's block, with its own widths; the smallest is run too.
TEST(FuseTest, PresetsAreFused) {
  for (const char* name : {"demo", "small", "strata-1b", "deepseek-v3"}) {
    const auto config = ModelPreset(name);
    ASSERT_THAT(config, IsOk());
    StepOptions options = Paged();
    const auto after = StepGraph(*config, options);
    options.fuse = false;
    const auto before = StepGraph(*config, options);
    ASSERT_THAT(before, IsOk());
    ASSERT_THAT(after, IsOk());
    EXPECT_LT(3 * after->nodes().size(), before->nodes().size()) << name;
    EXPECT_DOUBLE_EQ(CostOf(*after, Binding()).flops,
                     CostOf(*before, Binding()).flops)
        << name;
    EXPECT_EQ(NarrowableWeights(*after), NarrowableWeights(*before)) << name;
  }
  const auto demo = ModelPreset("demo");
  StepOptions options = Paged();
  auto fused = StepModel::Create(*demo, BatchInvariantCpuKernels(), options);
  options.fuse = false;
  auto plain = StepModel::Create(*demo, BatchInvariantCpuKernels(), options);
  ASSERT_THAT(fused, IsOk());
  ASSERT_THAT(plain, IsOk());
  for (const int64_t tokens : {1, 33, 130}) {
    ASSERT_THAT((*plain)->Run(tokens), IsOk());
    ASSERT_THAT((*fused)->Run(tokens), IsOk());
    EXPECT_EQ((*fused)->Results(), (*plain)->Results()) << tokens;
  }
}

TEST(FuseTest, ABlockIsThreeOperators) {
  StepOptions options = Paged();
  options.fuse = false;
  const auto before = StepGraph(FlatModel(), options);
  const auto after = StepGraph(FlatModel(), Paged());
  ASSERT_THAT(before, IsOk());
  ASSERT_THAT(after, IsOk());
  EXPECT_EQ(OpNames(*before, "model.layers.1").size(), 23);
  EXPECT_THAT(OpNames(*after, "model.layers.1"),
              ElementsAre("NormQkv", "PagedAttendProject", "RoutedExperts"));
  EXPECT_EQ(OpNames(*before, "model.layers.0").size(), 16);
  EXPECT_THAT(OpNames(*after, "model.layers.0"),
              ElementsAre("NormQkv", "PagedAttendProject", "NormMlp"));
  const auto grouped = StepGraph(GroupedModel(), Paged());
  ASSERT_THAT(grouped, IsOk());
  EXPECT_THAT(OpNames(*grouped, "model.layers.1"),
              ElementsAre("NormQkv", "PagedAttendProject", "RoutedExperts"));
}

TEST(FuseTest, LatentAttentionIsTwoOperators) {
  for (const ModelConfig& config : {LatentModel(), PlainLatentModel()}) {
    const auto graph = StepGraph(config, Paged());
    ASSERT_THAT(graph, IsOk());
    EXPECT_THAT(
        OpNames(*graph, "model.layers.1"),
        ElementsAre("LatentQkv", "PagedLatentAttendProject", "RoutedExperts"));
  }
}

// What stays beside the gate and the experts of a tier: the norm of its input,
// the way of those that stay, the plan.
TEST(FuseTest, ATierIsAGateAndItsExperts) {
  StepOptions options = Paged();
  options.fuse = false;
  const auto before = StepGraph(HierarchicalModel(), options);
  const auto after = StepGraph(HierarchicalModel(), Paged());
  ASSERT_THAT(before, IsOk());
  ASSERT_THAT(after, IsOk());
  EXPECT_THAT(OpNames(*after, "model.layers.1.mlp.tier.0"),
              ElementsAre("RmsNorm", "ExpertContext", "TierGate", "CarryWeight",
                          "DispatchPlan", "ExpertsResidual", "CompactRows"));
  EXPECT_GT(OpNames(*before, "model.layers.1.mlp.tier.0").size(), 35);
}

TEST(BlockSummaryTest, CountsTheTwelveStepsOfABlock) {
  StepOptions options = Paged();
  options.fuse = false;
  const auto before = StepGraph(FlatModel(), options);
  const auto after = StepGraph(FlatModel(), Paged());
  ASSERT_THAT(before, IsOk());
  ASSERT_THAT(after, IsOk());
  const BlockSummary plain = SummariseBlock(*before, "model.layers.1");
  const BlockSummary fused = SummariseBlock(*after, "model.layers.1");
  EXPECT_EQ(plain.nodes.size(), 23);
  EXPECT_EQ(plain.num_basic, 12);
  EXPECT_EQ(fused.num_basic, 3);
  EXPECT_LT(fused.intermediate_bytes, plain.intermediate_bytes / 2);
  EXPECT_EQ(SummariseBlock(*before, "model.layers.10").nodes.size(), 0);
}

// A packed cache is stored and attended to by the fused operators, in any
// format.
TEST(FuseTest, AttentionOverAPackedCacheIsTwoOperators) {
  for (const CacheFormat format :
       {CacheFormat::kBF16, CacheFormat::kInt8, CacheFormat::kInt4}) {
    for (const int64_t blocks : {kBlocks, int64_t{0}}) {
      StepOptions options;
      options.cache_blocks = blocks;
      options.cache = format;
      const auto heads = StepGraph(FlatModel(), options);
      ASSERT_THAT(heads, IsOk());
      EXPECT_THAT(
          OpNames(*heads, "model.layers.1"),
          ElementsAre("NormQkv", "PackedAttendProject", "RoutedExperts"));
      for (const ModelConfig& config : {LatentModel(), PlainLatentModel()}) {
        const auto latents = StepGraph(config, options);
        ASSERT_THAT(latents, IsOk());
        EXPECT_THAT(OpNames(*latents, "model.layers.1"),
                    ElementsAre("LatentQkv", "PackedLatentAttendProject",
                                "RoutedExperts"));
      }
    }
  }
}

TEST(FuseTest, CostsTheSameFlopsAndFewerBytes) {
  for (const CacheFormat format :
       {CacheFormat::kF32, CacheFormat::kBF16, CacheFormat::kInt4}) {
    for (const ModelConfig& config : AllModels()) {
      StepOptions options = Paged();
      options.cache = format;
      const auto after = StepGraph(config, options);
      options.fuse = false;
      const auto before = StepGraph(config, options);
      ASSERT_THAT(before, IsOk());
      ASSERT_THAT(after, IsOk());
      // At bounds, and at a part of every bound.
      for (const Binding& binding :
           {Binding(), Binding([](ValueId, int64_t bound) {
              return std::ceil(0.5 * static_cast<double>(bound));
            })}) {
        const Cost want = CostOf(*before, binding),
                   got = CostOf(*after, binding);
        EXPECT_DOUBLE_EQ(got.flops, want.flops) << config.name();
        EXPECT_LT(got.bytes_read, want.bytes_read) << config.name();
        EXPECT_LT(got.bytes_written, want.bytes_written) << config.name();
      }
    }
  }
}

TEST(FuseTest, TheSameWeightsCanBeNarrow) {
  for (const ModelConfig& config : AllModels()) {
    StepOptions options = Paged();
    const auto after = StepGraph(config, options);
    options.fuse = false;
    const auto before = StepGraph(config, options);
    ASSERT_THAT(before, IsOk());
    ASSERT_THAT(after, IsOk());
    EXPECT_EQ(NarrowableWeights(*after), NarrowableWeights(*before))
        << config.name();
  }
}

TEST(FuseTest, UsesOnlyWhatTheBackendHas) {
  StepOptions options = Paged();
  options.fuse = false;
  const auto graph = StepGraph(FlatModel(), options);
  ASSERT_THAT(graph, IsOk());
  FuseOptions none;
  none.has_kernel = [](const OpDef&, DType) { return false; };
  EXPECT_EQ(ToText(Fuse(*graph, none)), ToText(*graph));
  FuseOptions mlp;
  mlp.has_kernel = [](const OpDef& op, DType) { return op.name == "NormMlp"; };
  EXPECT_EQ(Fuse(*graph, mlp).nodes().size(), graph->nodes().size() - 4);
}

// A router whose choice somebody wants keeps its gate; its experts are fused.
TEST(FuseTest, AChoiceThatIsAnOutputKeepsTheGate) {
  StepOptions options = Paged();
  options.fuse = false;
  auto graph = StepGraph(FlatModel(), options);
  ASSERT_THAT(graph, IsOk());
  for (const Node& node : graph->nodes()) {
    if (node.op->name == "TopKSelect") {
      graph->SetOutput("choice", node.outputs[0]);
    }
  }
  const std::vector<std::string> names =
      OpNames(Fuse(*graph), "model.layers.1");
  EXPECT_THAT(names, Contains("TopKSelect"));
  EXPECT_THAT(names, Contains("ExpertsResidual"));
  EXPECT_THAT(names, Not(Contains("RoutedExperts")));
}

}  // namespace
}  // namespace strata
