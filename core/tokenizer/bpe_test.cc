#include "core/tokenizer/bpe.h"

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "core/base/random.h"
#include "core/testing/status_matchers.h"
#include "core/tokenizer/json_node.h"
#include "core/tokenizer/tokenizer_fixture.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "nlohmann/json.hpp"

namespace strata {
namespace {

using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using Json = nlohmann::json;

Json Model(const std::vector<std::string>& tokens, const Json& merges) {
  Json model = {{"type", "BPE"}, {"vocab", Json::object()}, {"merges", merges}};
  for (const std::string& token : tokens) {
    model["vocab"][token] = model["vocab"].size();
  }
  return model;
}

absl::StatusOr<Bpe> Parse(const Json& json, bool is_byte_level = false) {
  return Bpe::Parse(JsonNode(json, "model"), is_byte_level);
}

std::vector<int32_t> Encode(const Bpe& bpe, const std::string& piece) {
  Bpe::Scratch scratch;
  std::vector<int32_t> ids;
  bpe.Encode(piece, scratch, ids);
  std::vector<int32_t> again;
  bpe.Encode(piece, scratch, again);  // As it is remembered.
  EXPECT_EQ(again, ids);
  return ids;
}

TEST(BpeTest, MergesTheLowestRankFirst) {
  // "abc": b c (rank 0) before a b (rank 1), which then cannot be.
  const auto bpe =
      Parse(Model({"a", "b", "c", "bc", "ab", "abc"}, {"b c", "a b", "a bc"}));
  ASSERT_THAT(bpe, IsOk());
  EXPECT_THAT(Encode(*bpe, "ab"), ElementsAre(4));
  EXPECT_THAT(Encode(*bpe, "abc"), ElementsAre(5));
  EXPECT_THAT(Encode(*bpe, "abbc"), ElementsAre(4, 3));
}

TEST(BpeTest, MergesTheLeftmostOfEquals) {
  const auto bpe = Parse(Model({"a", "aa"}, {"a a"}));
  ASSERT_THAT(bpe, IsOk());
  EXPECT_THAT(Encode(*bpe, "aaa"), ElementsAre(1, 0));
  EXPECT_THAT(Encode(*bpe, "aaaaa"), ElementsAre(1, 1, 0));
}

TEST(BpeTest, ReadsBothFormsOfMerges) {
  const std::vector<std::string> tokens = {"a", "b", " ", "ab", "a b"};
  const auto text = Parse(Model(tokens, {"#version: 0.2", "a b"}));
  // Only this form can have a space in a token.
  const auto pairs = Parse(Model({"a", "b", " ", "ab", " b"},
                                 Json::parse(R"([["a","b"],[" ","b"]])")));
  ASSERT_THAT(text, IsOk());
  ASSERT_THAT(pairs, IsOk());
  EXPECT_THAT(Encode(*text, "ab"), ElementsAre(3));
  EXPECT_THAT(Encode(*pairs, "ab b"), ElementsAre(3, 4));
}

TEST(BpeTest, IgnoresMergesIfThePieceIsAToken) {
  Json model = Model({"a", "b", "c", "bc", "abc"}, {"b c"});
  EXPECT_THAT(Encode(*Parse(model), "abc"), ElementsAre(0, 3));
  model["ignore_merges"] = true;
  EXPECT_THAT(Encode(*Parse(model), "abc"), ElementsAre(4));
  EXPECT_THAT(Encode(*Parse(model), "abca"), ElementsAre(0, 3, 0));
}

TEST(BpeTest, FallsBackToBytesThenToTheUnknownToken) {
  Json model = Model({"a", "<0xC3>", "<0xA9>", "<unk>"}, Json::array());
  EXPECT_THAT(Encode(*Parse(model), "a\u00E9b"), ElementsAre(0));  // Dropped.
  model["unk_token"] = "<unk>";
  EXPECT_THAT(Encode(*Parse(model), "a\u00E9b"), ElementsAre(0, 3, 3));
  model["byte_fallback"] = true;
  EXPECT_THAT(Encode(*Parse(model), "\u00E9b"), ElementsAre(1, 2, 3));
  EXPECT_THAT(Encode(*Parse(model), "bc\u00E9bc"),
              ElementsAre(3, 3, 1, 2, 3, 3));
  model["fuse_unk"] = true;
  EXPECT_THAT(Encode(*Parse(model), "bc\u00E9bcabb"),
              ElementsAre(3, 1, 2, 3, 0, 3));
}

TEST(BpeTest, SpellsBytesInTheirAlphabet) {
  const auto bpe =
      Parse(Model({"\u0120", "a", "\u00C3", "\u00A9", "\u0120a"}, {"\u0120 a"}),
            /*is_byte_level=*/true);
  ASSERT_THAT(bpe, IsOk());
  EXPECT_THAT(Encode(*bpe, " a\u00E9"), ElementsAre(4, 2, 3));
}

// What merging says, step by step.
std::vector<int32_t> MergeSlowly(const std::vector<std::string>& merges,
                                 const Bpe& bpe, const std::string& piece) {
  std::vector<std::string> symbols;
  for (const char c : piece) symbols.emplace_back(1, c);
  for (bool found = true; found;) {
    found = false;
    for (const std::string& merge : merges) {
      for (size_t i = 0; i + 1 < symbols.size() && !found; ++i) {
        if (symbols[i] + " " + symbols[i + 1] != merge) continue;
        symbols[i] += symbols[i + 1];
        symbols.erase(symbols.begin() + i + 1);
        found = true;
      }
      if (found) break;
    }
  }
  std::vector<int32_t> ids;
  for (const std::string& symbol : symbols) ids.push_back(bpe.Find(symbol));
  return ids;
}

TEST(BpeTest, AgreesWithMergingStepByStep) {
  Random random(/*seed=*/7, /*stream=*/0);
  for (int trial = 0; trial < 200; ++trial) {
    std::vector<std::string> tokens = {"a", "b", "c"};
    std::vector<std::string> merges;
    for (int i = 0; i < 12; ++i) {
      const std::string left = tokens[random.UniformInt(tokens.size())];
      const std::string right = tokens[random.UniformInt(tokens.size())];
      bool is_new = true;
      for (const std::string& token : tokens) {
        is_new = is_new && token != left + right;
      }
      if (!is_new) continue;
      tokens.push_back(left + right);
      merges.push_back(left + " " + right);
    }
    // A merge may come before those that make its parts.
    for (size_t i = merges.size(); i > 1; --i) {
      std::swap(merges[i - 1], merges[random.UniformInt(i)]);
    }
    const auto bpe = Parse(Model(tokens, merges));
    ASSERT_THAT(bpe, IsOk());
    std::string piece;
    for (int i = 0; i < 40; ++i) piece += "abc"[random.UniformInt(3)];
    EXPECT_EQ(Encode(*bpe, piece), MergeSlowly(merges, *bpe, piece)) << piece;
  }
}

TEST(BpeTest, TakesStepsInProportionToAPieceHoweverItMerges) {
  // Tokens of 1, 2, 4 ... 1024 letters: as many merges as there can be.
  std::vector<std::string> tokens = {"a"};
  std::vector<std::string> merges;
  while (tokens.back().size() < 1024) {
    const std::string& last = tokens.back();
    merges.push_back(last + " " + last);
    tokens.push_back(last + last);
  }
  const auto bpe = Parse(Model(tokens, merges));
  ASSERT_THAT(bpe, IsOk());
  for (const size_t size : {1000u, 100000u, 1000000u}) {
    Bpe::Scratch scratch;
    std::vector<int32_t> ids;
    bpe->Encode(std::string(size, 'a'), scratch, ids);
    // n pairs at first, two more for each of n merges, and each is taken off
    // the heap once.
    EXPECT_LE(scratch.num_steps(), static_cast<int64_t>(6 * size));
  }
}

TEST(BpeTest, EncodesNothing) {
  EXPECT_THAT(Encode(*Parse(Model({"a"}, Json::array())), ""), IsEmpty());
  EXPECT_THAT(Encode(*Parse(Model({}, Json::array())), "abc"), IsEmpty());
}

TEST(BpeTest, RefusesWhatIsNoModel) {
  constexpr auto kInvalid = absl::StatusCode::kInvalidArgument;
  constexpr auto kUnimplemented = absl::StatusCode::kUnimplemented;
  const auto with = [](const char* key, const Json& value) {
    Json model = Model({"a", "b", "ab"}, {"a b"});
    model[key] = value;
    return Parse(model).status();
  };
  EXPECT_THAT(with("type", "Unigram"),
              StatusIs(kUnimplemented, AllOf(HasSubstr("\"Unigram\""),
                                             HasSubstr("supported is BPE"))));
  EXPECT_THAT(with("dropout", 0.1),
              StatusIs(kUnimplemented, HasSubstr("dropout")));
  EXPECT_THAT(with("dropout", 0.0), IsOk());
  EXPECT_THAT(with("end_of_word_suffix", "</w>"),
              StatusIs(kUnimplemented, HasSubstr("end_of_word_suffix")));
  EXPECT_THAT(with("continuing_subword_prefix", "##"),
              StatusIs(kUnimplemented, HasSubstr("continuing_subword_prefix")));
  EXPECT_THAT(with("unk_token", "<unk>"),
              StatusIs(kInvalid, HasSubstr("unk_token is \"<unk>\"")));
  EXPECT_THAT(with("vocab", Json::array()),
              StatusIs(kInvalid, HasSubstr("model.vocab: is array")));
  EXPECT_THAT(with("vocab", {{"a", -1}}),
              StatusIs(kInvalid, HasSubstr("is -1")));
  EXPECT_THAT(with("vocab", {{"a", 1 << 20}}),
              StatusIs(kInvalid, HasSubstr("1048576; want 0 to 1048575")));
  EXPECT_THAT(with("vocab", {{"a", 18446744073709551615u}}),
              StatusIs(kInvalid, HasSubstr("want 0 to")));
  EXPECT_THAT(with("vocab", {{"a", 1.5}}),
              StatusIs(kInvalid, HasSubstr("1.5")));
  EXPECT_THAT(with("vocab", {{"a", 1}, {"b", 1}}),
              StatusIs(kInvalid, HasSubstr("have one id, 1")));
  EXPECT_THAT(with("merges", nullptr), StatusIs(kInvalid, HasSubstr("merges")));
  EXPECT_THAT(with("merges", {"a b", "ab"}),
              StatusIs(kInvalid, HasSubstr("model.merges[1]: is \"ab\"")));
  EXPECT_THAT(with("merges", {"a  b"}),
              StatusIs(kInvalid, HasSubstr("one space")));
  EXPECT_THAT(with("merges", {"b a"}),
              StatusIs(kInvalid, HasSubstr("the vocabulary lacks \"ba\"")));
  EXPECT_THAT(with("merges", {"x a"}),
              StatusIs(kInvalid, HasSubstr("the vocabulary lacks \"x\"")));
  EXPECT_THAT(with("merges", Json::parse(R"([["a","b","c"]])")),
              StatusIs(kInvalid, HasSubstr("neither")));
}

}  // namespace
}  // namespace strata
