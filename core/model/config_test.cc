#include "core/model/config.h"

#include <cstdint>
#include <random>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "core/model/config.pb.h"
#include "core/model/set_field.h"
#include "core/testing/status_matchers.h"
#include "gmock/gmock.h"
#include "google/protobuf/util/message_differencer.h"
#include "gtest/gtest.h"

namespace strata {
namespace {

using ::google::protobuf::util::MessageDifferencer;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::StartsWith;

constexpr auto kInvalid = absl::StatusCode::kInvalidArgument;

ModelConfig Preset(const std::string& name) {
  absl::StatusOr<ModelConfig> config = ModelPreset(name);
  EXPECT_THAT(config, IsOk());
  return config.ok() ? *std::move(config) : ModelConfig();
}

TEST(ModelPresetTest, AreValidAndBearTheirNames) {
  EXPECT_THAT(ModelPresetNames(),
              ElementsAre("demo", "small", "strata-1b", "deepseek-v3"));
  for (const std::string& name : ModelPresetNames()) {
    const ModelConfig config = Preset(name);
    EXPECT_THAT(Validate(config), IsOk()) << name;
    EXPECT_EQ(config.name(), name);
  }
}

TEST(ModelPresetTest, ListsTheKnownOnesIfItKnowsNoSuch) {
  EXPECT_THAT(ModelPreset("huge"),
              StatusIs(absl::StatusCode::kNotFound,
                       "no model preset \"huge\"; there are demo, small, "
                       "strata-1b, deepseek-v3"));
}

struct Wrong {
  std::vector<std::string> set;  // On the preset.
  std::string message;           // How the error starts.
  std::string preset = "demo";
};

void PrintTo(const Wrong& wrong, std::ostream* out) { *out << wrong.message; }

class ValidateTest : public testing::TestWithParam<Wrong> {};

TEST_P(ValidateTest, NamesFieldAndValueAndWhatIsWanted) {
  ModelConfig config = Preset(GetParam().preset);
  for (const std::string& set : GetParam().set) {
    ASSERT_THAT(SetField(config, set), IsOk());
  }

  EXPECT_THAT(Validate(config),
              StatusIs(kInvalid, StartsWith(GetParam().message)));
}

INSTANTIATE_TEST_SUITE_P(
    Model, ValidateTest,
    testing::Values(
        Wrong{{"vocab_size=0"}, "vocab_size is 0; want 1 to 16777216"},
        Wrong{{"d_model=-1"}, "d_model is -1; want 1 to 1048576"},
        Wrong{{"num_layers=0"}, "num_layers is 0; want 1 to"},
        Wrong{{"max_seq_len=0"}, "max_seq_len is 0; want 1 to"},
        Wrong{{"norm_eps=0"}, "norm_eps is 0; want more than 0, less than 1"},
        Wrong{{"num_dense_layers=5"}, "num_dense_layers is 5; want 0 to 2"},
        Wrong{{"num_dense_layers=1"}, "dense_width is 0; want 1 to"},
        Wrong{{"d_model=9223372036854775807"}, "d_model is 92233720368547"}));

INSTANTIATE_TEST_SUITE_P(
    Attention, ValidateTest,
    testing::Values(
        Wrong{{"attention.num_heads=0"}, "attention.num_heads is 0; want 1"},
        Wrong{{"attention.num_kv_heads=0"}, "attention.num_kv_heads is 0; w"},
        Wrong{{"attention.num_kv_heads=3"},
              "attention.num_heads is 4; want a multiple of "
              "attention.num_kv_heads, 3"},
        Wrong{{"attention.head_dim=31"},
              "attention.head_dim is 31; want an even number"},
        Wrong{{"attention.rope_theta=0"}, "attention.rope_theta is 0; want m"},
        Wrong{{"attention.latent.kv_rank=0"},
              "attention.latent.kv_rank is 0; want 1",
              "deepseek-v3"},
        Wrong{{"attention.latent.q_rank=-1"},
              "attention.latent.q_rank is -1; want 0",
              "deepseek-v3"},
        Wrong{{"attention.latent.nope_dim=0"},
              "attention.latent.nope_dim is 0; want 1",
              "deepseek-v3"},
        Wrong{{"attention.latent.rope_dim=3"},
              "attention.latent.rope_dim is 3; want an even number",
              "deepseek-v3"},
        Wrong{{"attention.latent.value_dim=0"},
              "attention.latent.value_dim is 0; want 1",
              "deepseek-v3"}));

INSTANTIATE_TEST_SUITE_P(
    Flat, ValidateTest,
    testing::Values(
        Wrong{{"moe.flat.num_experts=0"},
              "moe.flat.num_experts is 0; want 1 to",
              "deepseek-v3"},
        Wrong{
            {"moe.flat.k=0"}, "moe.flat.k is 0; want 1 to 128", "deepseek-v3"},
        // Four of eight groups of 32 are looked at.
        Wrong{{"moe.flat.k=129"},
              "moe.flat.k is 129; want 1 to 128",
              "deepseek-v3"},
        Wrong{{"moe.flat.num_groups=0", "moe.flat.top_groups=0",
               "moe.flat.k=257"},
              "moe.flat.k is 257; want 1 to 256",
              "deepseek-v3"},
        Wrong{{"moe.flat.num_groups=7"},
              "moe.flat.num_experts is 256; want a multiple of "
              "moe.flat.num_groups, 7",
              "deepseek-v3"},
        Wrong{{"moe.flat.num_groups=256"},
              "moe.flat.num_groups is 256; want groups of at least 2 experts",
              "deepseek-v3"},
        Wrong{{"moe.flat.top_groups=9"},
              "moe.flat.top_groups is 9; want 1 to 8",
              "deepseek-v3"},
        Wrong{{"moe.flat.scale=-1"},
              "moe.flat.scale is -1; want at least 0",
              "deepseek-v3"},
        Wrong{{"moe.flat.choice=TOP_P", "moe.flat.top_p=0",
               "moe.flat.num_groups=0", "moe.flat.top_groups=0"},
              "moe.flat.top_p is 0; want more than 0, at most 1",
              "deepseek-v3"},
        Wrong{{"moe.flat.choice=TOP_P", "moe.flat.top_p=0.9"},
              "moe.flat.num_groups is 8; want 0 to 1",
              "deepseek-v3"},
        Wrong{{"moe.flat.choice=EXPERT_CHOICE", "moe.flat.num_groups=0",
               "moe.flat.top_groups=0"},
              "moe.flat.correction_bias is set; want none with",
              "deepseek-v3"},
        Wrong{{"moe.flat.balance_weight=-1"},
              "moe.flat.balance_weight is -1; want at least 0",
              "deepseek-v3"},
        Wrong{{"moe.flat.correction_bias=false",
               "moe.flat.bias_update_rate=0.001"},
              "moe.flat.bias_update_rate is 0.001; want 0 without",
              "deepseek-v3"},
        Wrong{{"moe.shared_width=-1"},
              "moe.shared_width is -1; want 0 to",
              "deepseek-v3"}));

INSTANTIATE_TEST_SUITE_P(
    Hierarchical, ValidateTest,
    testing::Values(
        Wrong{{"moe.expert_width=0"}, "moe.expert_width is 0; want 1 to"},
        Wrong{{"moe.hierarchical.tier_experts="},
              "moe.hierarchical.tier_experts is a list of 0; want 1 to 64"},
        Wrong{{"moe.hierarchical.tier_experts=16,0"},
              "moe.hierarchical.tier_experts[1] is 0; want 1 to"},
        Wrong{{"moe.hierarchical.tier_experts=65536,16"},
              "moe.hierarchical.tier_experts is 65552 in all; want at most"},
        Wrong{{"moe.hierarchical.k_min=9"},
              "moe.hierarchical.k_min is 9; want 1 to 8"},
        Wrong{{"moe.hierarchical.k_max=13"},
              "moe.hierarchical.k_max is 13; want at most 8, what coarse_keep "
              "0.5 leaves of moe.hierarchical.tier_experts[0], 16"},
        Wrong{{"moe.hierarchical.k_min=0"},
              "moe.hierarchical.k_min is 0; want 1"},
        Wrong{{"moe.hierarchical.tau=0"}, "moe.hierarchical.tau is 0; want m"},
        Wrong{{"moe.hierarchical.tau=1.5"}, "moe.hierarchical.tau is 1.5; wa"},
        Wrong{{"moe.hierarchical.coarse_keep=0"},
              "moe.hierarchical.coarse_keep is 0; want more than 0"},
        Wrong{{"moe.hierarchical.exit_threshold=1"},
              "moe.hierarchical.exit_threshold is 1; want at least 0, less"},
        Wrong{{"moe.hierarchical.energy_groups=0"},
              "moe.hierarchical.energy_groups is 0; want 1"},
        Wrong{{"moe.hierarchical.energy_dim=-1"},
              "moe.hierarchical.energy_dim is -1; want 0"},
        Wrong{{"moe.hierarchical.energy_dim=0",
               "moe.hierarchical.energy_groups=3"},
              "d_model is 128; want a multiple of "
              "moe.hierarchical.energy_groups, 3"},
        Wrong{{"moe.hierarchical.fine_width=-1"},
              "moe.hierarchical.fine_width is -1; want 0"},
        Wrong{{"moe.hierarchical.fine_width=0",
               "moe.hierarchical.add_coarse=false"},
              "moe.hierarchical.fine_width is 0; want at least 1 without "
              "add_coarse"},
        Wrong{{"moe.hierarchical.distill_weight=-1"},
              "moe.hierarchical.distill_weight is -1; want at least 0"},
        Wrong{{"moe.hierarchical.cost_weight=-1"},
              "moe.hierarchical.cost_weight is -1; want at least 0"},
        Wrong{{"moe.hierarchical.balance_weight=-1"},
              "moe.hierarchical.balance_weight is -1; want at least 0"},
        Wrong{{"moe.hierarchical.load.ema_decay=1"},
              "moe.hierarchical.load.ema_decay is 1; want at least 0, less"},
        Wrong{{"moe.hierarchical.load.max_bias=-1"},
              "moe.hierarchical.load.max_bias is -1; want at least 0"},
        Wrong{{"moe.hierarchical.weigh_by=SOFTMAX",
               "moe.hierarchical.bias_use=WEIGHT"},
              "moe.hierarchical.weigh_by is SOFTMAX; want SIGMOID with "
              "bias_use WEIGHT"},
        Wrong{{"moe.hierarchical.scale=-1"},
              "moe.hierarchical.scale is -1; want at least 0"},
        Wrong{{"moe.hierarchical.tau=0.6", "moe.hierarchical.tau_start=0.5"},
              "moe.hierarchical.tau_start is 0.5; want 0, or at least tau, "
              "0.6, and at most 1"},
        Wrong{
            {"moe.hierarchical.tau_start=0", "moe.hierarchical.tau_anneal=0.5"},
            "moe.hierarchical.tau_anneal is 0.5; want 0 without tau_start"},
        Wrong{
            {"moe.hierarchical.tau_start=1", "moe.hierarchical.tau_anneal=1.5"},
            "moe.hierarchical.tau_anneal is 1.5; want 0 to 1"}));

TEST(ValidateTest, RefusesChoicesThatItDoesNotKnow) {
  ModelConfig config = Preset("demo");
  HierarchicalRouterConfig& router =
      *config.mutable_moe()->mutable_hierarchical();
  router.set_combine(static_cast<HierarchicalRouterConfig::Combine>(7));
  EXPECT_THAT(Validate(config),
              StatusIs(kInvalid,
                       "moe.hierarchical.combine is 7; want SUM or "
                       "CONCAT"));

  router.set_combine(HierarchicalRouterConfig::CONCAT);
  router.set_bias_use(static_cast<HierarchicalRouterConfig::BiasUse>(7));
  EXPECT_THAT(Validate(config),
              StatusIs(kInvalid,
                       "moe.hierarchical.bias_use is 7; want CHOICE "
                       "or WEIGHT"));

  router.set_bias_use(HierarchicalRouterConfig::CHOICE);
  router.set_tier_input(static_cast<HierarchicalRouterConfig::TierInput>(7));
  EXPECT_THAT(
      Validate(config),
      StatusIs(kInvalid,
               "moe.hierarchical.tier_input is 7; want UPDATED or FED"));
}

TEST(ValidateTest, WantsARouterOnlyIfThereAreMoeLayers) {
  ModelConfig config = Preset("demo");
  config.clear_moe();
  config.mutable_moe()->set_expert_width(8);
  EXPECT_THAT(Validate(config),
              StatusIs(kInvalid, HasSubstr("want moe.flat or moe.hierarch")));

  config.set_num_dense_layers(config.num_layers());
  config.set_dense_width(8);
  EXPECT_THAT(Validate(config), IsOk());
}

TEST(ValidateTest, RefusesSizesThatOnlyTogetherOverflow) {
  ModelConfig config = Preset("demo");
  config.set_d_model(1 << 20);
  config.set_num_layers(1 << 12);
  config.mutable_moe()->set_expert_width(1 << 20);
  config.mutable_moe()->mutable_hierarchical()->clear_tier_experts();
  config.mutable_moe()->mutable_hierarchical()->add_tier_experts(1 << 16);

  EXPECT_THAT(Validate(config),
              StatusIs(kInvalid, HasSubstr("want at most 1e+15")));
}

TEST(ModelConfigJsonTest, ReadsWhatItWrites) {
  for (const std::string& name : ModelPresetNames()) {
    const ModelConfig config = Preset(name);

    const absl::StatusOr<ModelConfig> read =
        ModelConfigFromJson(ToJson(config));

    ASSERT_THAT(read, IsOk());
    EXPECT_TRUE(MessageDifferencer::Equals(*read, config)) << name;
  }
}

TEST(ModelConfigJsonTest, LooksLikeHuggingFaces) {
  EXPECT_THAT(ToJson(Preset("demo")), StartsWith(R"({
  "architectures": [
    "StrataForCausalLM"
  ],
  "model_type": "strata",
  "name": "demo",
  "vocab_size": 256,
)"));
}

TEST(ModelConfigJsonTest, RefusesOtherArchitectures) {
  const std::string json = ToJson(Preset("demo"));

  EXPECT_THAT(ModelConfigFromJson(absl::StrReplaceAll(
                  json, {{"StrataForCausalLM", "LlamaForCausalLM"}})),
              StatusIs(kInvalid,
                       "the architecture is \"LlamaForCausalLM\"; want "
                       "\"architectures\": [\"StrataForCausalLM\"]"));
  EXPECT_THAT(ModelConfigFromJson(
                  absl::StrReplaceAll(json, {{"\"strata\"", "\"llama\""}})),
              StatusIs(kInvalid, HasSubstr("model_type is not \"strata\"")));
  EXPECT_THAT(ModelConfigFromJson("{}"),
              StatusIs(kInvalid, HasSubstr("no architecture is named")));
  EXPECT_THAT(ModelConfigFromJson(R"({"architectures": "StrataForCausalLM"})"),
              StatusIs(kInvalid, HasSubstr("not a list of one name")));
  EXPECT_THAT(ModelConfigFromJson("[1]"),
              StatusIs(kInvalid, HasSubstr("the JSON is an array")));
}

TEST(ModelConfigJsonTest, RefusesWhatItDoesNotKnowAndWhatDoesNotFit) {
  const std::string json = ToJson(Preset("demo"));

  EXPECT_THAT(
      ModelConfigFromJson(
          absl::StrReplaceAll(json, {{"\"d_model\"", "\"hidden_size\""}})),
      StatusIs(kInvalid, HasSubstr("unknown field \"hidden_size\"; want ")));
  EXPECT_THAT(ModelConfigFromJson(absl::StrReplaceAll(
                  json, {{"\"energy_dim\": 1", "\"energy_dim\": -1"}})),
              StatusIs(kInvalid, HasSubstr("energy_dim is -1; want 0 to")));
}

// Whatever the bytes: a valid config or one line that says why not.
TEST(ModelConfigJsonTest, SurvivesAnyBytes) {
  const std::string texts[] = {ToJson(Preset("demo")),
                               ToJson(Preset("deepseek-v3"))};
  const std::string pieces[] = {"{",
                                "}",
                                "[",
                                "]",
                                ",",
                                ":",
                                "\"",
                                "null",
                                "-1",
                                "0",
                                "1e308",
                                "1e-400",
                                "true",
                                "\\u0000",
                                "9223372036854775808",
                                "-9223372036854775808",
                                std::string(1, '\0'),
                                "\xff",
                                "\n"};
  std::mt19937 rng(/*seed=*/1);
  const auto below = [&](size_t n) { return rng() % n; };
  int num_valid = 0;
  for (int i = 0; i < 20000; ++i) {
    std::string text = texts[i % 2];
    for (int change = 1 + below(3); change > 0; --change) {
      const size_t at = below(text.size());
      switch (below(5)) {
        case 0:
          text[at] = static_cast<char>(rng());
          break;
        case 1:
          text.insert(at, pieces[below(std::size(pieces))]);
          break;
        case 2:
          text.erase(at, 1 + below(8));
          break;
        case 3:  // A piece of the text somewhere else.
          text.insert(at, text.substr(below(text.size()), below(40)));
          break;
        case 4: {  // A digit for a digit, which keeps it JSON.
          const size_t digit = text.find_first_of("0123456789", at);
          if (digit != std::string::npos) text[digit] = '0' + below(10);
        }
      }
    }
    if (below(20) == 0) text.resize(below(text.size()));

    const absl::StatusOr<ModelConfig> read = ModelConfigFromJson(text);

    if (read.ok()) {
      ++num_valid;
      ASSERT_THAT(Validate(*read), IsOk()) << text;
      ASSERT_THAT(ModelConfigFromJson(ToJson(*read)), IsOk()) << text;
    } else {
      ASSERT_EQ(read.status().code(), kInvalid);
      ASSERT_THAT(std::string(read.status().message()),
                  testing::Not(HasSubstr("\n")));
    }
  }
  EXPECT_GT(num_valid, 100);  // Both arms are tried.
}

}  // namespace
}  // namespace strata
