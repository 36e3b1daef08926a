#include "core/model/set_field.h"

#include <string>
#include <vector>

#include "absl/status/status.h"
#include "core/model/config.pb.h"
#include "core/testing/status_matchers.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace strata {
namespace {

using ::testing::Contains;
using ::testing::ElementsAre;
using ::testing::Eq;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::Not;

constexpr auto kInvalid = absl::StatusCode::kInvalidArgument;

TEST(SetFieldTest, SetsFieldsOfEveryType) {
  ModelConfig config;

  EXPECT_THAT(SetField(config, "num_layers=4"), IsOk());
  EXPECT_THAT(SetField(config, "norm_eps=1e-6"), IsOk());
  EXPECT_THAT(SetField(config, "tie_embeddings=true"), IsOk());
  EXPECT_THAT(SetField(config, "name=a=b"), IsOk());
  EXPECT_THAT(SetField(config, "moe.flat.score=SIGMOID"), IsOk());

  EXPECT_EQ(config.num_layers(), 4);
  EXPECT_EQ(config.norm_eps(), 1e-6);
  EXPECT_TRUE(config.tie_embeddings());
  EXPECT_EQ(config.name(), "a=b");
  EXPECT_EQ(config.moe().flat().score(), FlatRouterConfig::SIGMOID);
}

TEST(SetFieldTest, ReplacesAWholeList) {
  ModelConfig config;

  ASSERT_THAT(SetField(config, "moe.hierarchical.tier_experts=1,2"), IsOk());
  ASSERT_THAT(SetField(config, "moe.hierarchical.tier_experts=8,8,16"), IsOk());
  EXPECT_THAT(config.moe().hierarchical().tier_experts(),
              ElementsAre(8, 8, 16));

  ASSERT_THAT(SetField(config, "moe.hierarchical.tier_experts="), IsOk());
  EXPECT_THAT(config.moe().hierarchical().tier_experts(), IsEmpty());
}

TEST(SetFieldTest, SwitchesTheMemberOfAOneof) {
  ModelConfig config;
  config.mutable_moe()->mutable_hierarchical()->set_k_max(3);

  ASSERT_THAT(SetField(config, "moe.flat.k=2"), IsOk());

  EXPECT_TRUE(config.moe().has_flat());
}

TEST(SetFieldTest, SaysWhatItWanted) {
  ModelConfig config;
  config.mutable_moe()->mutable_hierarchical()->set_k_max(3);
  const std::string before = config.SerializeAsString();
  const auto error = [&](const char* argument, const auto& message) {
    EXPECT_THAT(SetField(config, argument), StatusIs(kInvalid, message));
    EXPECT_EQ(config.SerializeAsString(), before) << argument;
  };

  error("num_layers", Eq("\"num_layers\" has no '='; want field=value"));
  error("", HasSubstr("has no '='"));
  error("=3", HasSubstr("no field \"\": ModelConfig has name, vocab_size"));
  error("layers=3", HasSubstr("no field \"layers\": ModelConfig has name, "));
  error("moe.hierarchical.load.gain=1",
        Eq("no field \"moe.hierarchical.load.gain\": LoadControl has "
           "ema_decay, gain_p, gain_i, max_bias"));
  error("moe.flat=1", HasSubstr("\"moe.flat\" is a group of num_experts, k"));
  error("num_layers.x=1", HasSubstr("num_layers is an integer and has no f"));
  error("num_layers=4.0", Eq("num_layers is \"4.0\"; want an integer"));
  error("num_layers=99999999999999999999", HasSubstr("want an integer"));
  error("norm_eps=small", Eq("norm_eps is \"small\"; want a number"));
  error("norm_eps=nan", HasSubstr("want a number"));
  error("norm_eps=1e999", HasSubstr("want a number"));
  error("tie_embeddings=1", HasSubstr("want true or false"));
  error("moe.flat.score=RELU", HasSubstr("want one of SOFTMAX, SIGMOID"));
  error("moe.hierarchical.tier_experts=8,,8",
        Eq("moe.hierarchical.tier_experts is \"\"; want an integer, or several "
           "with commas between"));
}

TEST(FieldPathsTest, ListsWhatSetFieldTakes) {
  const std::vector<std::string> paths = FieldPaths(*ModelConfig::descriptor());

  EXPECT_EQ(paths.front(), "name");
  EXPECT_EQ(paths.back(), "fp8_block_columns");
  EXPECT_THAT(paths, Contains("attention.latent.q_rank"));
  EXPECT_THAT(paths, Not(Contains("attention.latent")));
}

}  // namespace
}  // namespace strata
