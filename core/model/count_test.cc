#include "core/model/count.h"

#include <cstdint>
#include <string>

#include "absl/status/statusor.h"
#include "core/model/config.h"
#include "core/model/config.pb.h"
#include "core/testing/status_matchers.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace strata {
namespace {

using ::testing::AllOf;
using ::testing::Ge;
using ::testing::Le;

int64_t CountOfPreset(const std::string& name) {
  const absl::StatusOr<ModelConfig> config = ModelPreset(name);
  EXPECT_THAT(config, IsOk());
  return config.ok() ? CountParameters(*config) : 0;
}

// Every dimension is another prime, so that no two products agree by chance.
ModelConfig Primes() {
  ModelConfig config;
  config.set_vocab_size(101);
  config.set_d_model(7);
  config.set_num_layers(5);
  config.mutable_attention()->set_num_heads(3);
  config.mutable_attention()->set_num_kv_heads(2);
  config.mutable_attention()->set_head_dim(11);
  config.set_num_dense_layers(2);
  config.set_dense_width(13);
  config.mutable_moe()->set_expert_width(17);
  config.mutable_moe()->set_shared_width(19);
  return config;
}

TEST(CountParametersTest, CountsAHierarchicalModel) {
  ModelConfig config = Primes();
  HierarchicalRouterConfig& router =
      *config.mutable_moe()->mutable_hierarchical();
  router.add_tier_experts(23);
  router.add_tier_experts(29);
  router.set_energy_groups(3);
  router.set_energy_dim(5);
  router.set_fine_width(31);

  const ParameterCount count = CountParametersByPart(config);

  EXPECT_EQ(count.embedding, 101 * 7);
  EXPECT_EQ(count.output, 101 * 7);
  EXPECT_EQ(count.attention, 5 * (2 * 33 * 7 + 2 * 22 * 7));
  EXPECT_EQ(count.dense, 2 * 3 * 7 * 13);
  EXPECT_EQ(count.routed_experts, 3 * (23 + 29) * 3 * 7 * 17);
  EXPECT_EQ(count.shared_experts, 3 * 3 * 7 * 19);
  EXPECT_EQ(count.gates,
            3 * (52 * (3 + 31) + 2 * (3 * 5 * 7 + 31 * 7 + 7 * 31 * 31)));
  // Five before attention, two dense, per MoE layer two tiers and the shared
  // expert, one before the output.
  EXPECT_EQ(count.norms, 7 * (5 + 2 + 3 * 3 + 1));
  EXPECT_EQ(count.total(), CountParameters(config));
  EXPECT_EQ(EstimateParameters(config), CountParameters(config));

  // A second norm of each tier but the first.
  router.set_tier_input(HierarchicalRouterConfig::FED);
  EXPECT_EQ(CountParameters(config), count.total() + 3 * 7);
  EXPECT_EQ(EstimateParameters(config), CountParameters(config));
  router.set_tier_input(HierarchicalRouterConfig::UPDATED);

  // Of each of three layers and two tiers, [7, 4 * 7].
  router.set_combine(HierarchicalRouterConfig::CONCAT);
  router.set_k_max(4);
  EXPECT_EQ(CountParameters(config), count.total() + 3 * 2 * 4 * 7 * 7);
  EXPECT_EQ(EstimateParameters(config), CountParameters(config));
  router.set_combine(HierarchicalRouterConfig::SUM);

  config.set_tie_embeddings(true);
  EXPECT_EQ(CountParameters(config), count.total() - 101 * 7);
  config.mutable_moe()->set_shared_width(0);
  EXPECT_EQ(CountParametersByPart(config).norms, 7 * (5 + 2 + 3 * 2 + 1));
}

TEST(CountParametersTest, CountsLatentAttentionAndAFlatRouter) {
  ModelConfig config = Primes();
  LatentAttentionConfig& latent = *config.mutable_attention()->mutable_latent();
  latent.set_q_rank(23);
  latent.set_kv_rank(29);
  latent.set_nope_dim(31);
  latent.set_rope_dim(37);
  latent.set_value_dim(41);
  config.mutable_moe()->mutable_flat()->set_num_experts(43);

  const ParameterCount count = CountParametersByPart(config);

  const int64_t kv_and_output = (29 + 37) * 7 + 3 * (31 + 41) * 29 + 7 * 3 * 41;
  EXPECT_EQ(count.attention, 5 * (23 * 7 + 3 * (31 + 37) * 23 + kv_and_output));
  EXPECT_EQ(count.gates, 3 * 43 * 7);
  EXPECT_EQ(count.norms, 5 * (7 + 23 + 29) + 5 * 7 + 7);

  latent.set_q_rank(0);
  EXPECT_EQ(CountParametersByPart(config).attention,
            5 * (3 * (31 + 37) * 7 + kv_and_output));
}

TEST(CountParametersTest, DoesNotCountTheMoeOfAModelWithoutMoeLayers) {
  ModelConfig config = Primes();
  config.mutable_moe()->mutable_flat()->set_num_experts(43);
  config.set_num_dense_layers(5);

  const ParameterCount count = CountParametersByPart(config);

  EXPECT_EQ(count.routed_experts + count.shared_experts + count.gates, 0);
}

TEST(CountParametersTest, AgreesWithThePublishedSizeOfDeepSeekV3) {
  // 671.026 B with norms, without the multi-token-prediction layer.
  EXPECT_EQ((CountOfPreset("deepseek-v3") + 500'000) / 1'000'000, 671'026);
}

TEST(CountParametersTest, GivesThePresetsTheSizesTheirNamesPromise) {
  EXPECT_THAT(CountOfPreset("small"), AllOf(Ge(25'000'000), Le(35'000'000)));
  EXPECT_THAT(CountOfPreset("strata-1b"),
              AllOf(Ge(900'000'000), Le(1'100'000'000)));
}

TEST(CoarseSurvivorsTest, RoundsUpAndKeepsAtLeastOne) {
  HierarchicalRouterConfig router;
  router.set_coarse_keep(0.5);
  EXPECT_EQ(CoarseSurvivors(router, 8), 4);
  EXPECT_EQ(CoarseSurvivors(router, 9), 5);
  EXPECT_EQ(CoarseSurvivors(router, 1), 1);
  router.set_coarse_keep(1e-9);
  EXPECT_EQ(CoarseSurvivors(router, 8), 1);
}

}  // namespace
}  // namespace strata
