// The promise that nothing allocates in the steady state of a training step.

#include <cstdint>
#include <string>

#include "core/model/config.h"
#include "core/testing/allocation_counter.h"
#include "core/testing/status_matchers.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "training/config.h"
#include "training/data/corpus.h"
#include "training/trainer.h"

namespace strata {
namespace {

ModelConfig Hierarchical() {
  ModelConfig config = *ModelPreset("demo");
  config.set_d_model(32);
  config.set_num_layers(2);
  config.mutable_attention()->set_num_heads(2);
  config.mutable_attention()->set_num_kv_heads(1);
  config.mutable_attention()->set_head_dim(16);
  config.mutable_moe()->set_expert_width(16);
  HierarchicalRouterConfig& gate =
      *config.mutable_moe()->mutable_hierarchical();
  gate.clear_tier_experts();
  for (const int experts : {4, 6, 5, 3}) gate.add_tier_experts(experts);
  gate.set_k_max(2);
  gate.set_exit_threshold(0.3);
  gate.set_energy_groups(8);
  gate.set_fine_width(8);
  return config;
}

ModelConfig Flat() {
  ModelConfig config = Hierarchical();
  FlatRouterConfig& flat = *config.mutable_moe()->mutable_flat();
  flat.set_num_experts(8);
  flat.set_k(2);
  flat.set_normalize(true);
  return config;
}

class AllocationTest : public ::testing::TestWithParam<int> {};

// The whole of Trainer::Step: sampling, two micro-batches, the update, metrics.
void ExpectNoAllocations(const ModelConfig& model, int num_threads) {
  TrainConfig train = *TrainPreset("demo");
  train.set_seq_len(32);
  train.set_batch_size(4);
  train.set_accumulation(2);
  std::string text;
  for (int i = 0; i < 20000; ++i) text += static_cast<char>(i * i % 251);
  const auto corpus = MakeCorpus({{"numbers", {{"a", text}}}});
  ASSERT_THAT(corpus, IsOk());
  const auto trainer = Trainer::Create(model, train, &*corpus, num_threads);
  ASSERT_THAT(trainer, IsOk());
  for (int i = 0; i < 2; ++i) ASSERT_THAT((*trainer)->Step(), IsOk());

  for (int i = 0; i < 20; ++i) {
    AllocationCounter allocations;
    const bool ok = (*trainer)->Step().ok();
    const int64_t count = allocations.count();
    ASSERT_TRUE(ok);
    ASSERT_EQ(count, 0) << "in step " << (*trainer)->step()
                        << "; the first has " << allocations.first_bytes()
                        << " bytes";
  }
}

TEST_P(AllocationTest, AStepOfTheHierarchicalModelAllocatesNothing) {
  ExpectNoAllocations(Hierarchical(), GetParam());
}

TEST_P(AllocationTest, AStepOfAFlatModelAllocatesNothing) {
  ExpectNoAllocations(Flat(), GetParam());
}

INSTANTIATE_TEST_SUITE_P(Threads, AllocationTest, ::testing::Values(1, 2, 3));

}  // namespace
}  // namespace strata
