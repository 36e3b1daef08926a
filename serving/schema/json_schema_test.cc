#include "serving/schema/json_schema.h"

#include <algorithm>
#include <cstdint>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "core/testing/status_matchers.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "nlohmann/json.hpp"
#include "serving/schema/byte_grammar.h"
#include "serving/schema/grammar_automaton.h"

namespace strata {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;
using Json = nlohmann::ordered_json;

constexpr int64_t kManyStates = 20000;

class Accepts {
 public:
  explicit Accepts(const std::string& schema) {
    const auto grammar = CompileJsonSchema(Json::parse(schema), "schema");
    EXPECT_THAT(grammar, IsOk());
    if (grammar.ok()) {
      automaton_ = std::make_unique<GrammarAutomaton>(*grammar, kManyStates);
    }
  }
  bool operator()(absl::string_view text) const {
    auto state = automaton_->start();
    for (const char c : text) {
      state = automaton_->Next(state, static_cast<uint8_t>(c));
      if (state == GrammarAutomaton::kDead) return false;
    }
    return automaton_->IsFinal(state);
  }
  GrammarAutomaton& automaton() { return *automaton_; }

 private:
  std::unique_ptr<GrammarAutomaton> automaton_;
};

absl::Status ErrorOf(const std::string& schema) {
  return CompileJsonSchema(Json::parse(schema), "schema").status();
}

TEST(JsonSchemaTest, TakesNumbersAsJsonWritesThem) {
  const Accepts number(R"({"type": "number"})");
  for (const char* good : {"0", "-0", "12", "0.5", "-3.25e+10", "1E5"}) {
    EXPECT_TRUE(number(good)) << good;
  }
  for (const char* bad : {"", "-", "01", "1.", ".5", "1e", "+1", "1 "}) {
    EXPECT_FALSE(number(bad)) << bad;
  }
  const Accepts integer(R"({"type": "integer"})");
  EXPECT_TRUE(integer("-17"));
  EXPECT_FALSE(integer("1.0"));
}

TEST(JsonSchemaTest, TakesStringsOfUtf8AndEscapes) {
  const Accepts string(R"({"type": "string"})");
  for (const char* good :
       {R"("")", R"("a b")", R"("\n\u00e9\"")", "\"\xC3\xA9\"",
        "\"\xE2\x82\xAC\"", "\"\xF0\x9F\x98\x80\""}) {
    EXPECT_TRUE(string(good)) << good;
  }
  for (const char* bad :
       {"\"", "\"\n\"", R"("\x")", R"("\u12")", "\"\xC3\"", "\"\xC0\x80\"",
        "\"\xED\xA0\x80\"", R"("\ud800")", "\"\xF5\x80\x80\x80\"", "a"}) {
    EXPECT_FALSE(string(bad)) << bad;
  }
}

TEST(JsonSchemaTest, CountsCharactersNotBytes) {
  const Accepts string(R"({"type": "string", "minLength": 2, "maxLength": 3})");
  EXPECT_FALSE(string("\"\xC3\xA9\""));
  EXPECT_TRUE(string("\"\xC3\xA9x\""));
  EXPECT_TRUE(string(R"("\u00e9\u00e9a")"));
  EXPECT_FALSE(string(R"("abcd")"));
}

TEST(JsonSchemaTest, WritesPropertiesInTheirOrderAndNoOthers) {
  const Accepts object(R"({"type": "object", "required": ["b"], "properties":
      {"a": {"type": "integer"}, "b": {"type": "boolean"},
       "c": {"type": "null"}}})");
  for (const char* good : {R"({"b":true})", R"({"a": 1, "b": false})",
                           "{\n  \"b\": true,\n  \"c\": null\n}",
                           R"({"a":1,"b":true,"c":null})"}) {
    EXPECT_TRUE(object(good)) << good;
  }
  for (const char* bad :
       {"{}", R"({"a":1})", R"({"b":true,"a":1})", R"({"b":true,"d":1})",
        R"({"b":1})", R"({"b":true,})", R"({,"b":true})"}) {
    EXPECT_FALSE(object(bad)) << bad;
  }
}

TEST(JsonSchemaTest, ObjectsWithoutPropertiesTakeAnyKeys) {
  const Accepts any(R"({"type": "object"})");
  EXPECT_TRUE(any("{}"));
  EXPECT_TRUE(any(R"({"x": [1, {"y": []}], "z": "s"})"));
  EXPECT_FALSE(any("[]"));
  const Accepts integers(
      R"({"type": "object", "additionalProperties": {"type": "integer"}})");
  EXPECT_TRUE(integers(R"({"x": 1, "y": 2})"));
  EXPECT_FALSE(integers(R"({"x": "1"})"));
  const Accepts empty(R"({"type": "object", "additionalProperties": false})");
  EXPECT_TRUE(empty("{}"));
  EXPECT_FALSE(empty(R"({"x": 1})"));
}

TEST(JsonSchemaTest, CountsItems) {
  for (const int min : {0, 1, 2, 3}) {
    for (const int max : {-1, 0, 1, 2, 3}) {
      if (max >= 0 && min > max) continue;
      Json schema = {{"type", "array"},
                     {"items", {{"type", "integer"}}},
                     {"minItems", min}};
      if (max >= 0) schema["maxItems"] = max;
      const Accepts list(schema.dump());
      std::string text = "[";
      for (int n = 0; n <= 6; ++n) {
        if (n > 0) text += n > 1 ? ", 7" : "7";
        EXPECT_EQ(list(text + "]"), n >= min && (max < 0 || n <= max))
            << n << " of " << min << " to " << max;
      }
    }
  }
}

TEST(JsonSchemaTest, TellsFirstItemsApart) {
  const Accepts list(R"({"type": "array", "minItems": 2, "items": false,
      "prefixItems": [{"type": "integer"}, {"type": "string"}]})");
  EXPECT_TRUE(list(R"([1, "a"])"));
  EXPECT_FALSE(list(R"([1])"));
  EXPECT_FALSE(list(R"(["a", 1])"));
  EXPECT_FALSE(list(R"([1, "a", 2])"));
}

TEST(JsonSchemaTest, TakesEnumsConstantsAndAlternatives) {
  const Accepts colour(R"({"enum": ["red", "green", 3, null]})");
  EXPECT_TRUE(colour(R"("red")"));
  EXPECT_TRUE(colour("3"));
  EXPECT_FALSE(colour(R"("blue")"));
  const Accepts typed(R"({"type": "string", "enum": ["red", 3]})");
  EXPECT_FALSE(typed("3"));
  EXPECT_TRUE(Accepts(R"({"const": {"a": [1]}})")(R"({"a":[1]})"));
  const Accepts either(
      R"({"anyOf": [{"type": "integer"}, {"enum": ["12a"]}]})");
  EXPECT_TRUE(either("12"));
  EXPECT_TRUE(either(R"("12a")"));
  EXPECT_TRUE(Accepts(R"({"type": ["integer", "null"]})")("null"));
  const Accepts digit(R"({"type": "integer", "minimum": -2, "maximum": 10})");
  EXPECT_TRUE(digit("-2"));
  EXPECT_TRUE(digit("10"));
  EXPECT_FALSE(digit("11"));
  EXPECT_FALSE(digit("-3"));
}

TEST(JsonSchemaTest, FollowsReferencesRoundAndRound) {
  const Accepts tree(R"({"$ref": "#/$defs/node", "$defs": {"node":
      {"type": "object", "required": ["children"], "properties": {"children":
       {"type": "array", "items": {"$ref": "#/$defs/node"}}}}}})");
  EXPECT_TRUE(tree(R"({"children": []})"));
  EXPECT_TRUE(tree(R"({"children": [{"children": [{"children": []}]}]})"));
  EXPECT_FALSE(tree(R"({"children": [{"children": 1}]})"));
}

TEST(JsonSchemaTest, NamesThePlaceOfWhatNothingSatisfies) {
  constexpr auto kInvalid = absl::StatusCode::kInvalidArgument;
  EXPECT_THAT(ErrorOf("false"), StatusIs(kInvalid, HasSubstr("nothing")));
  EXPECT_THAT(
      ErrorOf(R"({"type": "object", "required": ["a"], "properties":
          {"a": {"type": "array", "minItems": 3, "maxItems": 2}}})"),
      StatusIs(kInvalid, AllOf(HasSubstr("schema.properties.a:"),
                               HasSubstr("minItems is 3, above maxItems 2"))));
  EXPECT_THAT(ErrorOf(R"({"type": "object", "required": ["a"],
                          "additionalProperties": false})"),
              StatusIs(kInvalid, HasSubstr("which is no property")));
  EXPECT_THAT(ErrorOf(R"({"type": "string", "enum": [1]})"),
              StatusIs(kInvalid, HasSubstr("no value of enum")));
  EXPECT_THAT(ErrorOf(R"({"type": "object", "required": ["next"],
                  "properties": {"next": {"$ref": "#"}}})"),
              StatusIs(kInvalid, HasSubstr("demands itself without end")));
  EXPECT_THAT(ErrorOf(R"({"$ref": "#"})"),
              StatusIs(kInvalid, HasSubstr("without end")));
}

TEST(JsonSchemaTest, WhatCannotBeSatisfiedMayBeLeftOut) {
  const Accepts object(R"({"type": "object", "properties":
      {"a": false, "b": {"type": "integer"}}})");
  EXPECT_TRUE(object("{}"));
  EXPECT_TRUE(object(R"({"b": 1})"));
  // And is never begun.
  auto& automaton = const_cast<Accepts&>(object).automaton();
  auto state = automaton.start();
  for (const char c : absl::string_view("{\"")) {
    state = automaton.Next(state, static_cast<uint8_t>(c));
  }
  EXPECT_EQ(automaton.Next(state, 'a'), GrammarAutomaton::kDead);
}

TEST(JsonSchemaTest, NamesWhatIsNotSupported) {
  constexpr auto kInvalid = absl::StatusCode::kInvalidArgument;
  EXPECT_THAT(ErrorOf(R"({"type": "string", "pattern": "a+"})"),
              StatusIs(kInvalid, HasSubstr("schema.pattern is not supported")));
  EXPECT_THAT(ErrorOf(R"({"oneOf": [{"type": "string"}]})"),
              StatusIs(kInvalid, HasSubstr("schema.oneOf is not supported")));
  EXPECT_THAT(ErrorOf(R"({"type": "text"})"),
              StatusIs(kInvalid, HasSubstr("schema.type is \"text\"")));
  EXPECT_THAT(ErrorOf("3"), StatusIs(kInvalid, HasSubstr("schema is 3")));
  EXPECT_THAT(ErrorOf(R"({"$ref": "#/nowhere"})"),
              StatusIs(kInvalid, HasSubstr("not in the schema")));
  EXPECT_THAT(ErrorOf(R"({"type": "array", "minItems": -1})"),
              StatusIs(kInvalid, HasSubstr("schema.minItems is -1")));
  EXPECT_THAT(ErrorOf(R"({"type": "integer", "minimum": 0})"),
              StatusIs(kInvalid, HasSubstr("schema.maximum")));
  EXPECT_THAT(ErrorOf(R"({"type": "string", "minItems": 1})"),
              StatusIs(kInvalid, HasSubstr("schema.minItems")));
}

TEST(JsonSchemaTest, RefusesWhatWouldTakeTooMuchRoom) {
  constexpr auto kInvalid = absl::StatusCode::kInvalidArgument;
  EXPECT_THAT(ErrorOf(Json{{"const", std::string(100000, 'a')}}.dump()),
              StatusIs(kInvalid, HasSubstr("schema is too large")));
  Json many = {{"type", "object"}};
  for (int i = 0; i < 60; ++i) {
    many["properties"]["p" + std::to_string(i)] = {{"type", "string"},
                                                   {"maxLength", 2000}};
  }
  EXPECT_THAT(ErrorOf(many.dump()),
              StatusIs(kInvalid, HasSubstr("schema is too large")));
  // Each definition refers to the next: as deep as the list is long.
  Json chain = {{"$ref", "#/$defs/0"}};
  for (int i = 0; i < 5000; ++i) {
    chain["$defs"][std::to_string(i)] = {
        {"$ref", "#/$defs/" + std::to_string(i + 1)}};
  }
  EXPECT_THAT(ErrorOf(chain.dump()),
              StatusIs(kInvalid, HasSubstr("references deep")));
}

// A random walk among bytes that may come, ended as soon as it may: whatever it
// wrote is JSON, has the form asked for, and it is never stuck.
TEST(JsonSchemaTest, WhateverIsWrittenIsJsonOfTheForm) {
  Accepts object(R"({"type": "object", "required": ["name", "tags"],
      "properties": {"name": {"type": "string", "maxLength": 9},
       "age": {"type": "integer"}, "any": {},
       "tags": {"type": "array", "items": {"enum": ["a", "ab", "b"]}}}})");
  GrammarAutomaton& automaton = object.automaton();
  std::mt19937 rng(5);
  int finished = 0;
  for (int walk = 0; walk < 300; ++walk) {
    std::string text;
    auto state = automaton.start();
    while (!automaton.IsFinal(state) && text.size() < 4000) {
      std::vector<int> open;
      for (int byte = 0; byte < 256; ++byte) {
        if (automaton.Next(state, byte) != GrammarAutomaton::kDead) {
          open.push_back(byte);
        }
      }
      ASSERT_FALSE(open.empty()) << text;
      // Closing marks more often than chance, so that walks end.
      int byte = open[rng() % open.size()];
      for (const int mark : {'"', ']', '}'}) {
        const bool may =
            std::find(open.begin(), open.end(), mark) != open.end();
        if (may && rng() % 4 == 0) byte = mark;
      }
      text += static_cast<char>(byte);
      state = automaton.Next(state, byte);
    }
    if (!automaton.IsFinal(state)) continue;
    ++finished;
    const Json value = Json::parse(text, nullptr, /*allow_exceptions=*/false);
    ASSERT_TRUE(value.is_object()) << text;
    EXPECT_TRUE(value.at("name").is_string());
    EXPECT_TRUE(value.at("tags").is_array());
    EXPECT_TRUE(!value.contains("age") || value["age"].is_number());
  }
  EXPECT_GT(finished, 200);
}

}  // namespace
}  // namespace strata
