#include "serving/schema/token_masks.h"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "core/testing/status_matchers.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "nlohmann/json.hpp"

namespace strata {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;
using Json = nlohmann::ordered_json;

// Token 0 stops; some pieces; then all single bytes.
std::shared_ptr<const TokenVocabulary> Vocabulary() {
  std::vector<std::string> bytes = {"",      "tr", "true", "true,", "fal",
                                    "false", "se", "{\"",  "\":",   "\xE2\x82",
                                    "1",     "12", "\"}",  "a",     "\"a\""};
  for (int byte = 0; byte < 256; ++byte) {
    bytes.push_back(std::string(1, static_cast<char>(byte)));
  }
  return std::make_shared<TokenVocabulary>(bytes, std::vector<int32_t>{0});
}

std::vector<std::string> Allowed(TokenConstraint& constraint,
                                 const TokenVocabulary& vocabulary) {
  std::vector<float> logits(vocabulary.size() + 5, 1.0f);
  const bool any = constraint.Mask(absl::MakeSpan(logits));
  std::vector<std::string> allowed;
  for (size_t i = 0; i < logits.size(); ++i) {
    if (std::isinf(logits[i])) continue;
    allowed.push_back(i == 0 ? "STOP" : std::string(vocabulary.bytes(i)));
  }
  EXPECT_EQ(any, !allowed.empty());
  return allowed;
}

TEST(TokenMasksTest, AllowsTokensAllOfWhoseBytesMayCome) {
  const auto vocabulary = Vocabulary();
  SchemaCache cache(vocabulary);
  const auto make = cache.Get(Json::parse(R"({"type": "boolean"})"), "schema");
  ASSERT_THAT(make, IsOk());
  const auto constraint = (*make)();

  EXPECT_THAT(Allowed(*constraint, *vocabulary),
              ElementsAre("tr", "true", "fal", "false", "f", "t"));
  constraint->Take(4);  // fal
  EXPECT_THAT(Allowed(*constraint, *vocabulary), ElementsAre("se", "s"));
  EXPECT_FALSE(constraint->ended());
  constraint->Take(6);
  EXPECT_TRUE(constraint->ended());
  EXPECT_THAT(Allowed(*constraint, *vocabulary), ElementsAre("STOP"));
}

TEST(TokenMasksTest, AllowsToStopWhereTheTextIsWholeButMayGoOn) {
  const auto vocabulary = Vocabulary();
  SchemaCache cache(vocabulary);
  const auto make = cache.Get(Json::parse(R"({"enum": [1, 12]})"), "schema");
  ASSERT_THAT(make, IsOk());
  const auto constraint = (*make)();
  constraint->Take(10);
  EXPECT_FALSE(constraint->ended());
  EXPECT_THAT(Allowed(*constraint, *vocabulary), ElementsAre("STOP", "2"));
}

TEST(TokenMasksTest, ACharacterMayBeCutByTokens) {
  const auto vocabulary = Vocabulary();
  SchemaCache cache(vocabulary);
  const auto make = cache.Get(Json::parse(R"({"const": "€"})"), "schema");
  ASSERT_THAT(make, IsOk());
  const auto constraint = (*make)();
  constraint->Take(15 + '"');
  EXPECT_THAT(Allowed(*constraint, *vocabulary),
              ElementsAre("\xE2\x82", "\xE2"));
}

TEST(TokenMasksTest, ASchemaIsCompiledOnceAndErrorsAreNotKept) {
  SchemaCache cache(Vocabulary());
  const Json bad = Json::parse(R"({"type": "boolean", "enum": []})");
  EXPECT_FALSE(cache.Get(bad, "one").ok());
  EXPECT_THAT(std::string(cache.Get(bad, "other").status().message()),
              testing::HasSubstr("other"));
  for (int i = 0; i < 100; ++i) {
    EXPECT_THAT(cache.Get(Json{{"const", i}}, "schema"), IsOk());
  }
}

// Deep nesting, at random, wants more states than one automaton may have: the
// answer goes on in another, and stays JSON.
TEST(TokenMasksTest, GoesOnWhereStatesRunOut) {
  std::vector<std::string> bytes;
  for (int byte = 0; byte < 256; ++byte) {
    bytes.push_back(std::string(1, static_cast<char>(byte)));
  }
  // So many that masks leave room for few states.
  bytes.resize(2'000'000);
  const auto vocabulary =
      std::make_shared<TokenVocabulary>(bytes, std::vector<int32_t>{});
  SchemaCache cache(vocabulary);
  const auto make = cache.Get(Json::parse(R"({"type": "array"})"), "schema");
  ASSERT_THAT(make, IsOk());
  const auto constraint = (*make)();
  std::string text;
  std::mt19937 rng(1);
  std::vector<float> logits(256);
  for (int depth = 0; depth < 30; ++depth) {
    for (const char c : absl::string_view(rng() % 2 ? "[1,[" : "{\"k\":[")) {
      if (depth == 0 && c == '{') break;
      std::fill(logits.begin(), logits.end(), 0.0f);
      ASSERT_TRUE(constraint->Mask(absl::MakeSpan(logits)));
      if (std::isinf(logits[static_cast<unsigned char>(c)])) {
        ADD_FAILURE() << text << c;
        return;
      }
      constraint->Take(c);
      text += c;
    }
  }
}

}  // namespace
}  // namespace strata
