#include "core/model/decoder.h"

#include <algorithm>
#include <cstdint>
#include <string>
#include <vector>

#include "core/cpu/all_kernels.h"
#include "core/cpu/cpu_backend.h"
#include "core/graph/builder.h"
#include "core/graph/graph.h"
#include "core/graph/op_def.h"
#include "core/model/config.h"
#include "core/model/count.h"
#include "core/model/init.h"
#include "core/runtime/program.h"
#include "core/runtime/state_store.h"
#include "core/testing/status_matchers.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace strata {
namespace {

Graph BuildForward(const ModelConfig& config, int64_t max_tokens) {
  GraphBuilder b;
  DecoderOptions options;
  options.mode = DecoderOptions::Mode::kEvaluate;
  options.max_tokens = max_tokens;
  BuildDecoder(b, config, options);
  auto graph = b.Finish();
  EXPECT_THAT(graph, IsOk());
  return *graph;
}

class PresetTest : public ::testing::TestWithParam<std::string> {};

TEST_P(PresetTest, TheGraphHoldsAsManyParametersAsTheClosedFormSays) {
  const auto config = ModelPreset(GetParam());
  ASSERT_THAT(config, IsOk());

  const Graph graph = BuildForward(*config, /*max_tokens=*/16);

  EXPECT_EQ(CountElements(graph, Role::kParameter), CountParameters(*config));
}

INSTANTIATE_TEST_SUITE_P(Presets, PresetTest,
                         ::testing::ValuesIn(ModelPresetNames()),
                         [](const auto& info) {
                           std::string name = info.param;
                           for (char& c : name) {
                             if (c == '-') c = '_';
                           }
                           return name;
                         });

TEST(DeepSeekV3Test, CountsSixHundredSeventyOneBillion) {
  const Graph graph = BuildForward(*ModelPreset("deepseek-v3"), 16);

  // deepseek_v3 report: 671 B; with norms and both embeddings 671.026 B.
  EXPECT_NEAR(static_cast<double>(CountElements(graph, Role::kParameter)) / 1e9,
              671.026, 5e-4);
}

TEST(MtpTest, TheGraphHoldsTheModuleThatTheClosedFormCounts) {
  for (const char* const preset : {"deepseek-v3", "demo"}) {
    ModelConfig config = *ModelPreset(preset);
    const int64_t without = CountParameters(config);
    config.mutable_mtp()->set_num_layers(1);
    const Graph graph = BuildForward(config, 16);

    EXPECT_GT(CountParameters(config), without);
    EXPECT_EQ(CountElements(graph, Role::kParameter), CountParameters(config));
  }
}

// 2 FLOPs for each weight that a token meets, and attention's two products.
TEST(DeepSeekV3Test, FlopsOfOneTokenAreTwiceItsActiveParameters) {
  const ModelConfig config = *ModelPreset("deepseek-v3");
  const Graph graph = BuildForward(config, /*max_tokens=*/1);

  const double flops = CostOf(graph, Binding()).flops;

  // 36.63 B active with the output projection (deepseek_v3.md 5.1); norms,
  // softmax, gates' sorting are some millions.
  EXPECT_NEAR(flops / 2, 36.63e9, 0.01 * 36.63e9);
}

ModelConfig Tiny() {
  ModelConfig config = *ModelPreset("demo");
  config.set_d_model(32);
  config.set_num_layers(2);
  config.mutable_attention()->set_num_heads(2);
  config.mutable_attention()->set_num_kv_heads(1);
  config.mutable_attention()->set_head_dim(16);
  config.mutable_moe()->set_expert_width(16);
  config.mutable_moe()->mutable_hierarchical()->set_energy_groups(8);
  return config;
}

TEST(DecoderTest, AnUntrainedModelIsAboutAsGoodAsGuessing) {
  const ModelConfig config = Tiny();
  CpuBackend backend(/*num_threads=*/2, AllCpuKernels());
  StateStore state(backend);
  GraphBuilder b;
  DecoderOptions options;
  options.mode = DecoderOptions::Mode::kEvaluate;
  options.max_tokens = 64;
  options.max_sequences = 2;
  BuildDecoder(b, config, options);
  auto program = Program::Compile(*b.Finish(), backend, state);
  ASSERT_THAT(program, IsOk());
  InitializeParameters(config, /*seed=*/1, state);
  *(*program)->Input("num_tokens").as<int32_t>() = 64;
  for (int i = 0; i < 64; ++i) {
    (*program)->Input("ids").as<int32_t>()[i] = (i * 37) % 256;
    (*program)->Input("target").as<int32_t>()[i] = (i * 37 + 37) % 256;
    (*program)->Input("position").as<int32_t>()[i] = i % 32;
  }
  const std::vector<int32_t> seq_start = {0, 32, 64};
  std::copy(seq_start.begin(), seq_start.end(),
            (*program)->Input("seq_start").as<int32_t>());

  ASSERT_THAT((*program)->Run(), IsOk());

  // ln 256 = 5.545, plus half the variance of logits of tied, normal weights,
  // which is 1.
  EXPECT_NEAR(*(*program)->Output("loss").as<float>(), 5.545 + 0.5, 0.6);
}

// An untrained module guesses too, and its loss counts by its weight.
TEST(MtpTest, TheModulesLossIsAPartOfTheTotal) {
  ModelConfig config = Tiny();
  config.set_num_dense_layers(2);
  config.set_dense_width(24);
  config.mutable_mtp()->set_num_layers(1);
  config.mutable_mtp()->set_loss_weight(0.25);
  CpuBackend backend(/*num_threads=*/2, AllCpuKernels());
  StateStore state(backend);
  GraphBuilder b;
  DecoderOptions options;
  options.mode = DecoderOptions::Mode::kTrain;
  options.max_tokens = 64;
  BuildDecoder(b, config, options);
  auto program = Program::Compile(*b.Finish(), backend, state);
  ASSERT_THAT(program, IsOk());
  InitializeParameters(config, /*seed=*/1, state);
  *(*program)->Input("num_tokens").as<int32_t>() = 64;
  for (int i = 0; i < 64; ++i) {
    (*program)->Input("ids").as<int32_t>()[i] = (i * 37) % 256;
    (*program)->Input("target").as<int32_t>()[i] = (i * 37 + 37) % 256;
    (*program)->Input("position").as<int32_t>()[i] = i;
  }
  (*program)->Input("seq_start").as<int32_t>()[0] = 0;
  (*program)->Input("seq_start").as<int32_t>()[1] = 64;

  ASSERT_THAT((*program)->Run(), IsOk());

  const float loss = *(*program)->Output("loss").as<float>();
  const float mtp_loss = *(*program)->Output("mtp_loss").as<float>();
  EXPECT_NEAR(mtp_loss, 5.545 + 0.5, 0.6);  // As below and above.
  EXPECT_NE(mtp_loss, loss);
  EXPECT_NEAR(*(*program)->Output("total_loss").as<float>(),
              loss + 0.25 * mtp_loss, 1e-5);
}

}  // namespace
}  // namespace strata
