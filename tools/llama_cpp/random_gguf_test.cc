#include "tools/llama_cpp/random_gguf.h"

#include <cmath>
#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "core/checkpoint/model_source.h"
#include "core/checkpoint/stored_tensor.h"
#include "core/checkpoint/stored_vocabulary.h"
#include "core/model/config.pb.h"
#include "core/tensor/tensor.h"
#include "core/testing/status_matchers.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace strata {
namespace {

using ::testing::HasSubstr;

ModelConfig Tiny() {
  ModelConfig config;
  config.set_name("tiny");
  config.set_vocab_size(300);
  config.set_d_model(64);
  config.set_num_layers(2);
  config.set_max_seq_len(32);
  config.set_norm_eps(1e-6);
  AttentionConfig& attention = *config.mutable_attention();
  attention.set_num_heads(4);
  attention.set_num_kv_heads(2);
  attention.set_head_dim(16);
  attention.set_rope_theta(10000);
  attention.set_qk_norm(true);
  MoeConfig& moe = *config.mutable_moe();
  moe.set_expert_width(32);
  moe.mutable_flat()->set_num_experts(4);
  moe.mutable_flat()->set_k(2);
  moe.mutable_flat()->set_normalize(true);
  return config;
}

std::string Path() { return ::testing::TempDir() + "/random.gguf"; }

struct Case {
  GgufWeights weights;
  StoredTensor::Packing packing;
  // Energy of a number over 1 / columns: steps of codes and the power of two
  // of an F16 are what it can be off by.
  double least, most;
};

TEST(WriteRandomGgufTest, IsAFileThatTheReaderTakesWithTheModelItWasAskedFor) {
  for (const Case& c : std::vector<Case>{
           {GgufWeights::kQ4_0, StoredTensor::Packing::kQ4_0, 0.85, 1.15},
           {GgufWeights::kQ8_0, StoredTensor::Packing::kQ8_0, 0.85, 1.15},
           {GgufWeights::kF16, StoredTensor::Packing::kNone, 0.5, 2}}) {
    const absl::StatusOr<RandomGguf> written =
        WriteRandomGguf(Tiny(), c.weights, Path());
    ASSERT_THAT(written, IsOk());

    const absl::StatusOr<ModelSource> source = OpenModelSource(Path());

    ASSERT_THAT(source, IsOk());
    EXPECT_EQ(source->config.d_model(), 64);
    EXPECT_EQ(source->config.moe().flat().k(), 2);
    EXPECT_TRUE(source->config.attention().qk_norm());
    int64_t weights = 0;
    for (const auto& entry : source->layout.map) {
      for (const std::string& part : entry.parts) {
        ASSERT_EQ(source->tensors.count(part), 1) << part;
        weights += source->tensors.at(part).view.num_elements();
      }
    }
    EXPECT_EQ(weights, written->num_weights);
    EXPECT_EQ(written->file_bytes,
              static_cast<int64_t>(std::filesystem::file_size(Path())));
    const StoredTensor& down =
        source->tensors.at("model.layers.1.mlp.experts.3.down_proj.weight");
    EXPECT_EQ(down.packing, c.packing);
    std::vector<float> numbers(down.view.num_elements());
    ASSERT_THAT(ReadNumbers<float>("down", down, nullptr, numbers.data()),
                IsOk());
    double energy = 0;
    for (const float x : numbers) energy += double{x} * x;
    energy *= 32.0 / static_cast<double>(numbers.size());
    EXPECT_GT(energy, c.least);
    EXPECT_LT(energy, c.most);
    EXPECT_THAT(OpenVocabulary(Path()), IsOk());
  }
}

TEST(WriteRandomGgufTest, CountsOfExpertsThoseATokenReads) {
  const absl::StatusOr<RandomGguf> written =
      WriteRandomGguf(Tiny(), GgufWeights::kQ8_0, Path());

  ASSERT_THAT(written, IsOk());
  // Q8_0 has 34 bytes for 32 numbers. A layer: q 64 x 64, k and v 32 x 64, o
  // 64 x 64, two of four experts with 3 x 32 x 64, in F32 a gate of 4 x 64, two
  // gains of 64 and two of 16. Beside both layers a row of the embedding, a
  // gain and an output of 300 x 64.
  const double layer =
      (3 * 4096 + 2 * 6144) / 32.0 * 34 + 4 * (4 * 64 + 2 * 64 + 2 * 16);
  EXPECT_DOUBLE_EQ(written->bytes_per_token,
                   2 * layer + 2 * 64 + 4 * 64 + 300 * 64 / 32.0 * 34);
}

TEST(WriteRandomGgufTest, RefusesAModelThatTheArchitectureDoesNotDescribe) {
  ModelConfig config = Tiny();
  config.mutable_attention()->set_qk_norm(false);

  EXPECT_THAT(WriteRandomGguf(config, GgufWeights::kF16, Path()),
              StatusIs(absl::StatusCode::kInvalidArgument,
                       HasSubstr("the model tiny is none")));
}

}  // namespace
}  // namespace strata
