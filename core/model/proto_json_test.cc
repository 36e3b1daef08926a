#include "core/model/proto_json.h"

#include <cstdint>
#include <limits>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "core/model/config.pb.h"
#include "core/testing/status_matchers.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "nlohmann/json.hpp"

namespace strata {
namespace {

using ::testing::AllOf;
using ::testing::Eq;
using ::testing::HasSubstr;
using ::testing::Not;

constexpr auto kInvalid = absl::StatusCode::kInvalidArgument;

absl::StatusOr<MoeConfig> Read(absl::string_view text) {
  absl::StatusOr<nlohmann::json> json = ParseJson(text);
  if (!json.ok()) return json.status();
  MoeConfig config;
  absl::Status status = MessageFromJson(*json, config);
  if (!status.ok()) return status;
  return config;
}

TEST(MessageToJsonTest, WritesEveryScalarInTheOrderOfTheProto) {
  FlatRouterConfig config;
  config.set_num_experts(int64_t{1} << 53);
  config.set_score(FlatRouterConfig::SIGMOID);
  config.set_scale(2.5);

  EXPECT_EQ(MessageToJson(config).dump(),
            R"({"num_experts":9007199254740992,"k":0,"score":"SIGMOID",)"
            R"("normalize":false,"scale":2.5,"correction_bias":false,)"
            R"("num_groups":0,"top_groups":0,)"
            R"("choice":"TOP_K","top_p":0.0,"balance_weight":0.0,)"
            R"("balance_per_sequence":false,"z_weight":0.0,)"
            R"("bias_update_rate":0.0,"group_max":false})");
}

TEST(MessageToJsonTest, WritesOnlyTheGroupsThatAreSet) {
  MoeConfig config;
  config.mutable_hierarchical()->add_tier_experts(8);
  config.mutable_hierarchical()->add_tier_experts(16);

  const nlohmann::ordered_json json = MessageToJson(config);

  EXPECT_FALSE(json.contains("flat"));
  EXPECT_EQ(json["hierarchical"]["tier_experts"].dump(), "[8,16]");
  EXPECT_FALSE(json["hierarchical"].contains("load"));
}

TEST(JsonTextTest, ReplacesBytesThatAreNotUtf8) {
  ModelConfig config;
  config.set_name("a\xff");

  EXPECT_THAT(JsonText(MessageToJson(config)), HasSubstr("a\uFFFD"));
}

TEST(MessageFromJsonTest, ReadsWhatMessageToJsonWrites) {
  MoeConfig config;
  config.set_expert_width(std::numeric_limits<int64_t>::max());
  config.set_shared_width(std::numeric_limits<int64_t>::min());
  HierarchicalRouterConfig& router = *config.mutable_hierarchical();
  router.add_tier_experts(3);
  router.set_tau(0.1);  // Not a sum of powers of two.
  router.mutable_load()->set_gain_i(1e-300);

  const absl::StatusOr<MoeConfig> read = Read(JsonText(MessageToJson(config)));

  ASSERT_THAT(read, IsOk());
  EXPECT_EQ(read->SerializeAsString(), config.SerializeAsString());
}

TEST(MessageFromJsonTest, TakesIntegersForNumbers) {
  const absl::StatusOr<MoeConfig> read = Read(R"({"flat": {"scale": 2}})");

  ASSERT_THAT(read, IsOk());
  EXPECT_EQ(read->flat().scale(), 2.0);
}

TEST(MessageFromJsonTest, NamesTheFieldThatDoesNotFit) {
  const auto error = [](absl::string_view message) {
    return StatusIs(kInvalid, Eq(std::string(message)));
  };
  EXPECT_THAT(Read("[]"),
              StatusIs(kInvalid, HasSubstr("the JSON is an array; want an")));
  EXPECT_THAT(Read(R"({"expert_width": 4.5})"),
              error("expert_width is 4.5; want an integer"));
  EXPECT_THAT(Read(R"({"expert_width": "4"})"),
              error("expert_width is \"4\"; want an integer"));
  EXPECT_THAT(Read(R"({"expert_width": 9223372036854775808})"),
              error("expert_width is 9223372036854775808; want an integer"));
  EXPECT_THAT(Read(R"({"expert_width": null})"),
              error("expert_width is null; want an integer"));
  EXPECT_THAT(Read(R"({"flat": {"score": "SOFT"}})"),
              error("flat.score is \"SOFT\"; want one of SOFTMAX, SIGMOID"));
  EXPECT_THAT(Read(R"({"flat": {"normalize": 1}})"),
              error("flat.normalize is 1; want true or false"));
  EXPECT_THAT(Read(R"({"flat": {"scale": []}})"),
              error("flat.scale is an array; want a number"));
  EXPECT_THAT(Read(R"({"flat": 3})"),
              StatusIs(kInvalid, HasSubstr("flat is 3; want a group of num_")));
  EXPECT_THAT(
      Read(R"({"hierarchical": {"tier_experts": 8}})"),
      error("hierarchical.tier_experts is 8; want an array, each an integer"));
  EXPECT_THAT(Read(R"({"hierarchical": {"tier_experts": [8, true]}})"),
              error("hierarchical.tier_experts[1] is true; want an integer"));
  EXPECT_THAT(Read(R"({"hierarchical": {"load": {"gain": 1}}})"),
              error("unknown field \"gain\" in hierarchical.load; want "
                    "ema_decay, gain_p, gain_i, max_bias"));
  EXPECT_THAT(Read(R"({"flat": {}, "hierarchical": {}})"),
              error("hierarchical cannot stand beside flat; want one"));
}

TEST(MessageFromJsonTest, KeepsTheMessageOnError) {
  MoeConfig config;
  config.set_expert_width(7);

  const absl::Status status = MessageFromJson(
      nlohmann::json{{"expert_width", 8}, {"shared_width", "x"}}, config);

  EXPECT_THAT(status, StatusIs(kInvalid, HasSubstr("shared_width")));
  EXPECT_EQ(config.expert_width(), 7);
}

TEST(ParseJsonTest, SaysWhereTextIsNotJson) {
  EXPECT_THAT(ParseJson(""), StatusIs(kInvalid, HasSubstr("line 1, column 1")));
  EXPECT_THAT(ParseJson("{\"a\": 1,\n  b}"),
              StatusIs(kInvalid, HasSubstr("not JSON at line 2, column 3")));
  EXPECT_THAT(ParseJson("{\"a\": \"\xff\"}"),
              StatusIs(kInvalid, HasSubstr("not JSON at line 1, column 8")));
  EXPECT_THAT(ParseJson("{\"a\": 1e999}"),
              StatusIs(kInvalid, HasSubstr("out of range")));
}

TEST(ParseJsonTest, RefusesAKeyThatComesTwice) {
  EXPECT_THAT(ParseJson(R"({"a": 1, "b": {"a": 2}})"), IsOk());
  EXPECT_THAT(ParseJson(R"({"b": {"a": 1, "a": 1}})"),
              StatusIs(kInvalid, HasSubstr("key \"a\" is there twice")));
}

TEST(ParseJsonTest, SurvivesNestingDeeperThanTheStack) {
  constexpr int kDepth = 1000000;
  const std::string open(kDepth, '[');

  EXPECT_THAT(ParseJson(open), StatusIs(kInvalid, HasSubstr("not JSON")));
  EXPECT_THAT(Read("{\"flat\":" + open + std::string(kDepth, ']') + "}"),
              StatusIs(kInvalid, HasSubstr("flat is an array; want a group")));
}

TEST(MessageFromJsonTest, QuotesUnknownTextShortAndOnOneLine) {
  EXPECT_THAT(
      Read("{\"a\\nb\": 1}"),
      StatusIs(kInvalid, HasSubstr("unknown field \"a\\nb\"; want expert")));
  EXPECT_THAT(Read("{\"" + std::string(50, 'x') + "\": 1}"),
              StatusIs(kInvalid, AllOf(HasSubstr(std::string(40, 'x') + "..."),
                                       Not(HasSubstr(std::string(41, 'x'))))));
}

}  // namespace
}  // namespace strata
