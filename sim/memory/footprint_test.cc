#include "sim/memory/footprint.h"

#include "core/model/config.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace strata::sim {
namespace {

using ::testing::HasSubstr;

TEST(FootprintTest, CountsBytesAParameterByWhatIsCut) {
  TrainingMemory memory;
  memory.parameters = {/*dense=*/100, /*experts=*/1000};
  memory.dense_replicas = 4;
  memory.expert_replicas = 2;
  memory.activation_bytes = 7;
  memory.zero = 1;

  const Footprint f = TrainingFootprint(memory);

  EXPECT_EQ(f.weights, 2 * 1100);
  EXPECT_EQ(f.gradients, 4 * 1100);
  EXPECT_EQ(f.optimizer, 12 * (100 / 4.0 + 1000 / 2.0));
  EXPECT_EQ(f.activations, 7);
  EXPECT_EQ(f.buffers, kContextBytes);
}

TEST(FootprintTest, FitsUpToTheLastByte) {
  Footprint f;
  f.weights = 10;
  f.capacity = 10;
  EXPECT_TRUE(f.fits());
  EXPECT_THAT(Verdict(f), HasSubstr("fits"));
  f.kv_cache = 1;
  EXPECT_FALSE(f.fits());
  EXPECT_THAT(Verdict(f), HasSubstr("out of memory"));
}

TEST(FootprintTest, LatentAttentionCachesItsLatent) {
  EXPECT_EQ(KvBytesPerToken(*ModelPreset("deepseek-v3")), 2.0 * 576 * 61);
  // Two layers, two KV heads of 32, keys and values.
  EXPECT_EQ(KvBytesPerToken(*ModelPreset("demo")), 2.0 * 2 * 2 * 2 * 32);
}

}  // namespace
}  // namespace strata::sim
