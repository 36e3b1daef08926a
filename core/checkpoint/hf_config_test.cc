#include "core/checkpoint/hf_config.h"

#include <cmath>
#include <string>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "core/checkpoint/tiny_checkpoints.h"
#include "core/model/config.h"
#include "core/model/config.pb.h"
#include "core/model/count.h"
#include "core/testing/status_matchers.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace strata {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::TestParamInfo;
using ::testing::TestWithParam;
using ::testing::ValuesIn;

ModelConfig Parsed(const std::string& text) {
  const auto config = ModelConfigFromHf(text);
  EXPECT_THAT(config, IsOk());
  return config.ok() ? *config : ModelConfig();
}

TEST(ModelConfigFromHfTest, ReadsLlama) {
  const ModelConfig config = Parsed(TinyConfigText("llama"));
  EXPECT_EQ(config.attention().head_dim(), 8);  // Not 24 / 4.
  EXPECT_EQ(config.attention().num_kv_heads(), 2);
  EXPECT_TRUE(config.attention().bias());
  EXPECT_TRUE(config.mlp_bias());
  EXPECT_FALSE(config.attention().rope_interleaved());
  EXPECT_EQ(config.num_dense_layers(), 2);
  EXPECT_EQ(config.attention().rope_theta(), 5000);
  const RopeScaling& rope = config.attention().rope_scaling();
  EXPECT_EQ(rope.type(), RopeScaling::LLAMA3);
  EXPECT_EQ(rope.factor(), 8);
  EXPECT_EQ(rope.original_max_seq_len(), 16);
}

TEST(ModelConfigFromHfTest, TakesTheDefaultsOfTransformers) {
  const ModelConfig config = Parsed(TinyConfigText("llama_tied"));
  EXPECT_EQ(config.attention().num_kv_heads(), 4);
  EXPECT_EQ(config.attention().head_dim(), 6);
  EXPECT_EQ(config.norm_eps(), 1e-6);
  EXPECT_TRUE(config.tie_embeddings());
  // Dynamic scaling begins beyond what the model reads without it.
  EXPECT_EQ(config.attention().rope_scaling().type(), RopeScaling::DYNAMIC);
  EXPECT_EQ(config.attention().rope_scaling().original_max_seq_len(), 16);
}

TEST(ModelConfigFromHfTest, ReadsMixtral) {
  const ModelConfig config = Parsed(TinyConfigText("mixtral"));
  EXPECT_EQ(config.attention().window(), 5);
  EXPECT_EQ(config.norm_eps(), 1e-5);
  EXPECT_EQ(config.moe().expert_width(), 12);
  EXPECT_TRUE(config.moe().flat().normalize());
  EXPECT_EQ(config.moe().flat().score(), FlatRouterConfig::SOFTMAX);
}

TEST(ModelConfigFromHfTest, ReadsQwen3MoeWithItsDenseLayers) {
  const ModelConfig config = Parsed(TinyConfigText("qwen3_moe"));
  EXPECT_TRUE(config.attention().qk_norm());
  EXPECT_EQ(config.attention().window(), 0);  // Not without the switch.
  EXPECT_FALSE(config.moe().flat().normalize());
  // Sparse are 1 and 3 by the step of 2, but 3 is in mlp_only_layers.
  EXPECT_EQ(config.num_dense_layers(), 1);
  EXPECT_THAT(config.dense_layer(), ElementsAre(2, 3));
  EXPECT_EQ(config.dense_width(), 20);

  EXPECT_EQ(
      Parsed(absl::StrReplaceAll(TinyConfigText("qwen3_moe"),
                                 {{"\"use_sliding_window\": false",
                                   "\"use_sliding_window\": true"},
                                  {"num_experts\"", "num_local_experts\""}}))
          .attention()
          .window(),
      4);
}

TEST(ModelConfigFromHfTest, ReadsDeepseekV2) {
  const ModelConfig config = Parsed(TinyConfigText("deepseek_v2"));
  const FlatRouterConfig& flat = config.moe().flat();
  EXPECT_EQ(config.attention().latent().q_rank(), 0);
  EXPECT_TRUE(config.attention().rope_interleaved());
  EXPECT_TRUE(flat.group_max());
  EXPECT_EQ(flat.num_groups(), 4);
  EXPECT_EQ(flat.scale(), 16);
  EXPECT_FALSE(flat.normalize());
  EXPECT_EQ(config.moe().shared_width(), 24);
  // V2 does not look at norm_topk_prob.
  EXPECT_FALSE(
      Parsed(absl::StrReplaceAll(
                 TinyConfigText("deepseek_v2"),
                 {{"\"n_group\"", "\"norm_topk_prob\": true, \"n_group\""}}))
          .moe()
          .flat()
          .normalize());
}

TEST(ModelConfigFromHfTest, NoGroupsAndOneGroupAreOne) {
  const std::string text = TinyConfigText("deepseek_v3");
  const auto router = [&](const std::string& number) {
    std::string of = text;
    const size_t at = of.find("\"n_group\": ") + 11;
    of.replace(at, 1, number);
    return Parsed(of).moe().flat().SerializeAsString();
  };
  EXPECT_EQ(router("0"), router("1"));
}

TEST(ModelConfigFromHfTest, ReadsDeepseekV3) {
  const ModelConfig config = Parsed(TinyConfigText("deepseek_v3"));
  const FlatRouterConfig& flat = config.moe().flat();
  EXPECT_EQ(flat.score(), FlatRouterConfig::SIGMOID);
  EXPECT_TRUE(flat.correction_bias());
  EXPECT_FALSE(flat.group_max());
  EXPECT_TRUE(flat.normalize());
  EXPECT_TRUE(config.attention().rope_interleaved());
  EXPECT_EQ(config.attention().latent().norm_eps(), 1e-6);
  EXPECT_EQ(config.num_dense_layers(), 1);
  EXPECT_EQ(Parsed(TinyConfigText("deepseek_v3_fp8")).fp8_block_columns(), 16);
}

TEST(ModelConfigFromHfTest, GivesYarnItsFactorAndDefaults) {
  const ModelConfig config = Parsed(absl::StrReplaceAll(
      TinyConfigText("deepseek_v2"),
      {{"\"factor\": 4,", ""}, {"\"beta_fast\": 32,", ""}}));
  // 64 positions over 16.
  EXPECT_EQ(config.attention().rope_scaling().factor(), 4);
  EXPECT_EQ(config.attention().rope_scaling().beta_fast(), 32);
}

// Else it would be lost in writing, which gives it to yarn alone.
TEST(ModelConfigFromHfTest, LeavesYarnsMscaleToYarn) {
  const std::string text = TinyConfigText("llama");
  const ModelConfig config = Parsed(absl::StrReplaceAll(
      text,
      {{"\"low_freq_factor\"", "\"mscale\": 0.707, \"low_freq_factor\""}}));
  EXPECT_EQ(ToJson(config), ToJson(Parsed(text)));
}

class EveryTinyConfig : public TestWithParam<TinyConfig> {};

TEST_P(EveryTinyConfig, IsTheSameAfterWritingAndReading) {
  const ModelConfig config = Parsed(GetParam().json);
  const auto text = HfConfigText(config, "float32");
  ASSERT_THAT(text, IsOk());
  EXPECT_EQ(ToJson(Parsed(*text)), ToJson(config)) << *text;
  EXPECT_EQ(ArchitectureName(*text), ArchitectureName(GetParam().json));
}

// Whatever a byte of a config is changed to, reading ends, with a config that
// can be or with an error.
TEST_P(EveryTinyConfig, SurvivesEveryChangedByte) {
  const std::string text = GetParam().json;
  int read = 0;
  for (size_t i = 0; i < text.size(); ++i) {
    for (const char byte : {'0', '9', '-', '"', '{', ']', ',', '\0', '\xff'}) {
      std::string changed = text;
      changed[i] = byte;
      const auto config = ModelConfigFromHf(changed);
      if (!config.ok()) continue;
      ++read;
      EXPECT_THAT(Validate(*config), IsOk());
    }
    EXPECT_FALSE(ModelConfigFromHf(text.substr(0, i)).ok());
  }
  EXPECT_GT(read, 0);
}

std::string NameOf(const TestParamInfo<TinyConfig>& info) {
  return info.param.name;
}

INSTANTIATE_TEST_SUITE_P(HfConfigTest, EveryTinyConfig, ValuesIn(TinyConfigs()),
                         NameOf);

struct BadConfig {
  const char* name;
  const char* config;  // Of TinyConfigs().
  const char* from;
  const char* to;
  absl::StatusCode code;
  const char* message;
};

class BadConfigTest : public TestWithParam<BadConfig> {};

TEST_P(BadConfigTest, IsRefused) {
  const BadConfig& bad = GetParam();
  const std::string text =
      absl::StrReplaceAll(TinyConfigText(bad.config), {{bad.from, bad.to}});
  ASSERT_NE(text, TinyConfigText(bad.config));
  EXPECT_THAT(ModelConfigFromHf(text),
              StatusIs(bad.code, HasSubstr(bad.message)));
}

constexpr auto kInvalid = absl::StatusCode::kInvalidArgument;
constexpr auto kUnsupported = absl::StatusCode::kUnimplemented;

const BadConfig kBadConfigs[] = {
    {"Architecture", "llama", "LlamaForCausalLM", "GptForCausalLM",
     kUnsupported,
     "the architecture \"GptForCausalLM\" is not supported; want one of "
     "StrataForCausalLM, LlamaForCausalLM, MixtralForCausalLM, "
     "Qwen3MoeForCausalLM, DeepseekV2ForCausalLM, DeepseekV3ForCausalLM"},
    {"Activation", "llama", "\"vocab_size\"",
     "\"hidden_act\": \"gelu\", \"vocab_size\"", kUnsupported,
     "the activation \"gelu\" is not supported; want hidden_act silu"},
    {"RopeType", "llama", "\"llama3\"", "\"longrope\"", kUnsupported,
     "the rope type \"longrope\" is not supported; want default, linear, "
     "dynamic, yarn or llama3"},
    {"PartialRotary", "llama", "\"vocab_size\"",
     "\"partial_rotary_factor\": 0.5, \"vocab_size\"", kUnsupported,
     "partial_rotary_factor"},
    {"Quantisation", "deepseek_v3_fp8", "\"fp8\"", "\"gptq\"", kUnsupported,
     "the quantisation \"gptq\" \"e4m3\" is not supported"},
    {"Fp8WithoutBlocks", "deepseek_v3_fp8", "[8, 16]", "null", kUnsupported,
     "fp8 without blocks"},
    {"TopkMethod", "deepseek_v2", "group_limited_greedy", "random",
     kUnsupported,
     "topk_method \"random\" is not supported; want greedy or "
     "group_limited_greedy"},
    {"ScoringFunc", "deepseek_v3", "\"n_group\"",
     "\"scoring_func\": \"softmax\", \"n_group\"", kUnsupported,
     "scoring_func \"softmax\" is not supported; want sigmoid"},
    {"MoeLayerFreq", "deepseek_v3", "\"n_group\"",
     "\"moe_layer_freq\": 2, \"n_group\"", kUnsupported, "moe_layer_freq 2"},
    {"Missing", "mixtral", "\"hidden_size\"", "\"width\"", kInvalid,
     "hidden_size is absent; want an integer"},
    {"WrongType", "mixtral", "\"vocab_size\": 40", "\"vocab_size\": \"40\"",
     kInvalid, "vocab_size is \"40\"; want an integer"},
    {"Fraction", "mixtral", "\"vocab_size\": 40", "\"vocab_size\": 40.5",
     kInvalid, "vocab_size is 40.5; want an integer"},
    {"NoHeads", "mixtral", "\"num_attention_heads\": 4",
     "\"num_attention_heads\": 0", kInvalid, "num_attention_heads is 0"},
    {"NoStep", "qwen3_moe", "\"decoder_sparse_step\": 2",
     "\"decoder_sparse_step\": 0", kInvalid, "decoder_sparse_step is 0"},
    {"ListOfStrings", "qwen3_moe", "[3]", "[\"3\"]", kInvalid,
     "mlp_only_layers is [\"3\"]; want a list of integers"},
    {"TooManyShared", "deepseek_v3", "\"n_shared_experts\": 1",
     "\"n_shared_experts\": 9223372036854775807", kInvalid,
     "n_shared_experts 9223372036854775807"},
    {"TooManyChosen", "mixtral", "\"num_experts_per_tok\": 2",
     "\"num_experts_per_tok\": 5", kInvalid, "moe.flat.k is 5; want 1 to 4"},
};

INSTANTIATE_TEST_SUITE_P(HfConfigTest, BadConfigTest, ValuesIn(kBadConfigs),
                         [](const TestParamInfo<BadConfig>& info) {
                           return info.param.name;
                         });

TEST(ModelConfigFromHfTest, WantsAnObject) {
  EXPECT_THAT(ModelConfigFromHf("[]"),
              StatusIs(kInvalid, HasSubstr("not a JSON object")));
  EXPECT_THAT(ModelConfigFromHf("{}"),
              StatusIs(kInvalid, HasSubstr("architectures is absent")));
  EXPECT_THAT(ArchitectureName("nonsense"), IsEmpty());
}

TEST(HfArchitectureOfTest, NamesWhatStandsInTheWay) {
  ModelConfig config = Parsed(TinyConfigText("mixtral"));
  config.mutable_moe()->set_shared_width(8);
  EXPECT_THAT(HfArchitectureOf(config),
              StatusIs(kUnsupported, HasSubstr("shared experts without")));
  const auto demo = ModelPreset("demo");
  ASSERT_THAT(demo, IsOk());
  EXPECT_THAT(HfArchitectureOf(*demo),
              StatusIs(kUnsupported,
                       HasSubstr("no public architecture has a hierarchical "
                                 "router")));
}

// --- Parameter counts, from the published configs ---

constexpr char kV3[] = R"({"architectures": ["DeepseekV3ForCausalLM"],
  "vocab_size": 129280, "hidden_size": 7168, "intermediate_size": 18432,
  "moe_intermediate_size": 2048, "num_hidden_layers": 61,
  "num_attention_heads": 128, "num_key_value_heads": 128,
  "n_routed_experts": 256, "n_shared_experts": 1, "num_experts_per_tok": 8,
  "q_lora_rank": 1536, "kv_lora_rank": 512, "qk_nope_head_dim": 128,
  "qk_rope_head_dim": 64, "v_head_dim": 128, "n_group": 8, "topk_group": 4,
  "topk_method": "noaux_tc", "scoring_func": "sigmoid", "norm_topk_prob": true,
  "routed_scaling_factor": 2.5, "first_k_dense_replace": 3,
  "moe_layer_freq": 1, "num_nextn_predict_layers": 1,
  "max_position_embeddings": 163840, "rope_theta": 10000,
  "rope_scaling": {"type": "yarn", "factor": 40, "beta_fast": 32,
    "beta_slow": 1, "mscale": 1.0, "mscale_all_dim": 1.0,
    "original_max_position_embeddings": 4096},
  "quantization_config": {"activation_scheme": "dynamic", "fmt": "e4m3",
    "quant_method": "fp8", "weight_block_size": [128, 128]},
  "rms_norm_eps": 1e-6, "hidden_act": "silu", "tie_word_embeddings": false})";

constexpr char kV2[] = R"({"architectures": ["DeepseekV2ForCausalLM"],
  "vocab_size": 102400, "hidden_size": 5120, "intermediate_size": 12288,
  "moe_intermediate_size": 1536, "num_hidden_layers": 60,
  "num_attention_heads": 128, "n_routed_experts": 160, "n_shared_experts": 2,
  "num_experts_per_tok": 6, "q_lora_rank": 1536, "kv_lora_rank": 512,
  "qk_nope_head_dim": 128, "qk_rope_head_dim": 64, "v_head_dim": 128,
  "n_group": 8, "topk_group": 3, "topk_method": "group_limited_greedy",
  "scoring_func": "softmax", "norm_topk_prob": false,
  "routed_scaling_factor": 16.0, "first_k_dense_replace": 1,
  "max_position_embeddings": 163840, "rope_theta": 10000})";

constexpr char kV2Lite[] = R"({"architectures": ["DeepseekV2ForCausalLM"],
  "vocab_size": 102400, "hidden_size": 2048, "intermediate_size": 10944,
  "moe_intermediate_size": 1408, "num_hidden_layers": 27,
  "num_attention_heads": 16, "n_routed_experts": 64, "n_shared_experts": 2,
  "num_experts_per_tok": 6, "q_lora_rank": null, "kv_lora_rank": 512,
  "qk_nope_head_dim": 128, "qk_rope_head_dim": 64, "v_head_dim": 128,
  "n_group": 1, "topk_group": 1, "topk_method": "greedy",
  "first_k_dense_replace": 1, "max_position_embeddings": 163840})";

constexpr char kMoonlight[] = R"({"architectures": ["DeepseekV3ForCausalLM"],
  "vocab_size": 163840, "hidden_size": 2048, "intermediate_size": 11264,
  "moe_intermediate_size": 1408, "num_hidden_layers": 27,
  "num_attention_heads": 16, "n_routed_experts": 64, "n_shared_experts": 2,
  "num_experts_per_tok": 6, "q_lora_rank": null, "kv_lora_rank": 512,
  "qk_nope_head_dim": 128, "qk_rope_head_dim": 64, "v_head_dim": 128,
  "n_group": 1, "topk_group": 1, "topk_method": "noaux_tc",
  "scoring_func": "sigmoid", "norm_topk_prob": true,
  "routed_scaling_factor": 2.446, "first_k_dense_replace": 1,
  "max_position_embeddings": 8192, "rope_theta": 50000.0,
  "rope_scaling": null, "rms_norm_eps": 1e-5})";

// Billions, rounded to the three digits after the point that are published.
double Billions(const char* config) {
  const double count = CountParameters(Parsed(config));
  return std::round(count / 1e6) / 1e3;
}

TEST(ParameterCountTest, IsThatOfThePublishedModels) {
  EXPECT_EQ(Billions(kV3), 671.026);
  EXPECT_EQ(Billions(kV2), 235.741);
  EXPECT_EQ(Billions(kV2Lite), 15.706);
  EXPECT_EQ(Billions(kMoonlight), 15.960);
}

}  // namespace
}  // namespace strata
