#include "core/tokenizer/tokenizer.h"

#include <cstdint>
#include <iterator>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/types/span.h"
#include "core/base/random.h"
#include "core/testing/status_matchers.h"
#include "core/tokenizer/tokenizer_fixture.h"
#include "core/tokenizer/unicode.h"
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

std::vector<std::string> Tokens(const Tokenizer& tokenizer,
                                const std::string& text) {
  std::vector<std::string> tokens;
  for (const int32_t id : tokenizer.Encode(text)) {
    tokens.push_back(*tokenizer.TokenOf(id));
  }
  return tokens;
}

// What the stream gives for each id, and at its end.
std::vector<std::string> Stream(const Tokenizer& tokenizer,
                                absl::Span<const int32_t> ids) {
  TextStream stream(tokenizer, /*skip_special_tokens=*/false);
  std::vector<std::string> texts;
  for (const int32_t id : ids) texts.push_back(stream.Push(id));
  texts.push_back(stream.Finish());
  return texts;
}

TEST(TokenizerTest, MergesWithinPieces) {
  const Tokenizer tokenizer = MakeTokenizer(
      ByteLevelJson({"a b", "\u0120 a", "ab \u0120a", "1 2", "12 3"}));
  EXPECT_THAT(Tokens(tokenizer, "ab ab"), ElementsAre("ab", "\u0120", "ab"));
  EXPECT_THAT(Tokens(tokenizer, "12312"), ElementsAre("123", "12"));
  EXPECT_THAT(tokenizer.Encode(""), IsEmpty());
  EXPECT_EQ(tokenizer.vocab_size(), 261);
}

// Odd text: each line must come back, and in any cut of the stream whole.
TEST(TokenizerTest, DecodesToTheTextThatWasEncoded) {
  const Json sentence_piece =
      SentencePieceJson({"\u2581", "a", "b", "\u5B66"}, {"a b", "\u2581 ab"});
  for (const Json& json :
       {ByteLevelJson({"a b", "\u0120 a"}), sentence_piece}) {
    const Tokenizer tokenizer = MakeTokenizer(json);
    for (const std::string text :
         {"",
          " ",
          "   ",
          "ab",
          " ab",
          "ab ",
          "a\r\n\r\nb\n\r b",
          "\t\n",
          "\u5B66\u7FD2\u5B66",
          "\u3053\u3093\u306B\u3061\u306F \u4E16\u754C",
          "\U0001F636\u200D\U0001F32B\uFE0F!",
          "e\u0301\u0323 a\u0308",
          "\uD55C\uAD6D\uC5B4 \u1112\u1161\u11AB",
          "a\u00A0b\u2003c\u3000 d",
          "0123456789 \u0663\u0664 \u216B",
          "\u200B\uFEFF",
          "it's IT'S '",
          "<0x41> <unk>",
          "a\u0000b",
          "\U0010FFFF"}) {
      std::vector<int32_t> ids = tokenizer.Encode(
          text, {/*add_special_tokens=*/false, /*parse_special_tokens=*/false});
      const auto decoded = tokenizer.Decode(ids);
      ASSERT_THAT(decoded, IsOk());
      EXPECT_EQ(*decoded, text);
      std::string streamed;
      for (const std::string& part : Stream(tokenizer, ids)) {
        EXPECT_EQ(FindInvalidUtf8(part), std::string::npos) << text;
        streamed += part;
      }
      EXPECT_EQ(streamed, text);
    }
  }
}

TEST(TokenizerTest, RandomTextComesBack) {
  const Tokenizer tokenizer =
      MakeTokenizer(ByteLevelJson({"a b", "\u0120 a", "1 2", "\u00C3 \u00A9"}));
  const char32_t characters[] = {
      'a', 'b',  ' ',    ' ',    '\n',  '\r',   '1',     '2',  '.',    '\'',
      's', 0xE9, 0x5B66, 0x3042, 0x301, 0x200D, 0x1F600, 0xA0, 0x3000, 0xFF0C};
  Random random(/*seed=*/3, /*stream=*/0);
  for (int trial = 0; trial < 500; ++trial) {
    std::string text;
    const uint64_t size = random.UniformInt(24);
    for (uint64_t i = 0; i < size; ++i) {
      AppendUtf8(characters[random.UniformInt(std::size(characters))], text);
    }
    const auto decoded = tokenizer.Decode(tokenizer.Encode(text));
    ASSERT_THAT(decoded, IsOk());
    EXPECT_EQ(*decoded, text);
  }
}

TEST(TokenizerTest, TakesWhatIsNotUtf8AsReplacementCharacters) {
  const Tokenizer tokenizer = MakeTokenizer(ByteLevelJson());
  EXPECT_EQ(tokenizer.Encode("a\xE2\x82z\xFF"),
            tokenizer.Encode("a\uFFFDz\uFFFD"));
}

TEST(TokenizerTest, EncodesLikeSentencePiece) {
  const Tokenizer tokenizer = MakeTokenizer(
      SentencePieceJson({"\u2581", "a", "b"}, {"a b", "\u2581 ab"}));
  EXPECT_THAT(Tokens(tokenizer, "ab a"),
              ElementsAre("<s>", "\u2581ab", "\u2581", "a"));
  EXPECT_THAT(Tokens(tokenizer, "\u20ACb"),
              ElementsAre("<s>", "\u2581", "<0xE2>", "<0x82>", "<0xAC>", "b"));
  EXPECT_THAT(tokenizer.Encode("ab", {/*add_special_tokens=*/false}),
              ElementsAre(tokenizer.IdOf("\u2581ab")));
}

TEST(TokenizerTest, GivesBytesOfACharacterTogether) {
  const Tokenizer byte_level = MakeTokenizer(ByteLevelJson());
  EXPECT_THAT(Stream(byte_level, {0xE2, 0x82, 0xAC, 'x', 0xE2}),
              ElementsAre("", "", "\u20AC", "x", "", "\uFFFD"));
  // A run of byte tokens is text, or each of them is none.
  const Tokenizer fallback =
      MakeTokenizer(SentencePieceJson({"\u2581", "a"}, {}));
  const int a = fallback.IdOf("a");
  EXPECT_THAT(Stream(fallback, {3 + 0xE2, 3 + 0x82, 3 + 0xAC, a}),
              ElementsAre("", "", "", "\u20ACa", ""));
  EXPECT_THAT(Stream(fallback, {3 + 0x41, 3 + 0xE2, a, 3 + 0x41}),
              ElementsAre("", "", "\uFFFD\uFFFDa", "", "A"));
}

TEST(TokenizerTest, FindsAddedTokensLeftmostAndLongest) {
  Json json = ByteLevelJson();
  const int a = AddToken(json, "<a>");
  const int ab = AddToken(json, "<a><b>");
  const int b = AddToken(json, "<b>");
  const Tokenizer tokenizer = MakeTokenizer(json);
  EXPECT_THAT(tokenizer.Encode("x<a><b><a><"), ElementsAre('x', ab, a, '<'));
  EXPECT_THAT(tokenizer.Encode("<<b>"), ElementsAre('<', b));
  EXPECT_THAT(tokenizer.Encode("<a"), ElementsAre('<', 'a'));
  EXPECT_EQ(tokenizer.IdOf("<b>"), b);
  EXPECT_EQ(tokenizer.vocab_size(), b + 1);
}

TEST(TokenizerTest, AddedTokensTakeWhiteSpaceAlong) {
  Json json = ByteLevelJson();
  const int left = AddToken(json, "<l>", {{"lstrip", true}});
  const int right = AddToken(json, "<r>", {{"rstrip", true}});
  const int word = AddToken(json, "cat", {{"single_word", true}});
  const Tokenizer tokenizer = MakeTokenizer(json);
  EXPECT_THAT(tokenizer.Encode("a \u3000<l> b"),
              ElementsAre('a', left, ' ', 'b'));
  EXPECT_THAT(tokenizer.Encode("a <r>\n b"), ElementsAre('a', ' ', right, 'b'));
  // The space goes to the token that comes first.
  EXPECT_THAT(tokenizer.Encode("<r> <l>"), ElementsAre(right, left));
  EXPECT_THAT(tokenizer.Encode("cat cats (cat)"),
              ElementsAre(word, ' ', 'c', 'a', 't', 's', ' ', '(', word, ')'));
}

TEST(TokenizerTest, LooksForNormalizedTokensInNormalizedText) {
  Json json = ByteLevelJson();
  json["normalizer"] = {{"type", "NFC"}};
  const int normal = AddToken(json, "caf\u00E9", {{"normalized", true}});
  const int raw = AddToken(json, "th\u00E9");
  const Tokenizer tokenizer = MakeTokenizer(json);
  EXPECT_THAT(tokenizer.Encode("cafe\u0301"), ElementsAre(normal));
  EXPECT_THAT(tokenizer.Encode("th\u00E9"), ElementsAre(raw));
  EXPECT_THAT(tokenizer.Encode("the\u0301"), ElementsAre('t', 'h', 0xC3, 0xA9));
}

TEST(TokenizerTest, LeavesSpecialTokensOutWhenAsked) {
  Json json = ByteLevelJson();
  const int end = AddToken(json, "<end>", {{"special", true}});
  const int tool = AddToken(json, "<tool>");
  const Tokenizer tokenizer = MakeTokenizer(json);
  const std::vector<int32_t> ids = tokenizer.Encode("a<tool><end>");
  EXPECT_THAT(ids, ElementsAre('a', tool, end));
  EXPECT_EQ(*tokenizer.Decode(ids), "a<tool><end>");
  EXPECT_EQ(*tokenizer.Decode(ids, /*skip_special_tokens=*/true), "a<tool>");
  // A user must not be able to write them.
  EXPECT_THAT(tokenizer.Encode("<end>", {true, /*parse_special_tokens=*/false}),
              ElementsAre('<', 'e', 'n', 'd', '>'));
  EXPECT_TRUE(tokenizer.IsSpecial(end));
  EXPECT_FALSE(tokenizer.IsSpecial(tool));
}

TEST(TokenizerTest, FramesTextByTheTemplate) {
  Json json = ByteLevelJson();
  json["post_processor"] = Json::parse(R"({
    "type": "Sequence", "processors": [
      {"type": "ByteLevel", "trim_offsets": false},
      {"type": "TemplateProcessing",
       "single": [{"SpecialToken": {"id": "<b>", "type_id": 0}},
                  {"Sequence": {"id": "A", "type_id": 0}},
                  {"SpecialToken": {"id": "<e>", "type_id": 0}}],
       "special_tokens": {"<b>": {"id": "<b>", "ids": [7], "tokens": ["<b>"]},
                          "<e>": {"id": "<e>", "ids": [8, 9],
                                  "tokens": ["<e>", "<f>"]}}}]})");
  const Tokenizer tokenizer = MakeTokenizer(json);
  EXPECT_THAT(tokenizer.Encode("a"), ElementsAre(7, 'a', 8, 9));
  EXPECT_THAT(tokenizer.Encode(""), ElementsAre(7, 8, 9));
  EXPECT_THAT(tokenizer.Encode("a", {/*add_special_tokens=*/false}),
              ElementsAre('a'));
}

TEST(TokenizerTest, SplitsAsEachBehaviorSays) {
  const auto tokens = [](const char* behavior, bool invert) {
    Json json = ByteLevelJson({"a -", "- a", "- -"});
    json["pre_tokenizer"]["pretokenizers"] = {{{"type", "Split"},
                                               {"pattern", {{"String", "-"}}},
                                               {"behavior", behavior},
                                               {"invert", invert}},
                                              {{"type", "ByteLevel"},
                                               {"add_prefix_space", false},
                                               {"use_regex", false}}};
    return Tokens(MakeTokenizer(json), "a--a");
  };
  EXPECT_THAT(tokens("Isolated", false), ElementsAre("a", "-", "-", "a"));
  EXPECT_THAT(tokens("Removed", false), ElementsAre("a", "a"));
  EXPECT_THAT(tokens("Removed", true), ElementsAre("-", "-"));
  EXPECT_THAT(tokens("MergedWithPrevious", false), ElementsAre("a-", "-", "a"));
  EXPECT_THAT(tokens("MergedWithNext", false), ElementsAre("a", "-", "-a"));
  EXPECT_THAT(tokens("Contiguous", false), ElementsAre("a", "--", "a"));
}

TEST(TokenizerTest, MarksSpacesAsMetaspaceSays) {
  const auto tokens = [](const Json& flags, const std::string& text) {
    Json json = SentencePieceJson({"\u2581", "a"}, {"\u2581 a", "a \u2581"});
    json["normalizer"] = nullptr;
    json["post_processor"] = nullptr;
    json["pre_tokenizer"] = {{"type", "Metaspace"}, {"replacement", "\u2581"}};
    json["pre_tokenizer"].update(flags);
    AddToken(json, "<t>");
    return Tokens(MakeTokenizer(json), text);
  };
  EXPECT_THAT(tokens({{"prepend_scheme", "always"}}, "a a<t>a"),
              ElementsAre("\u2581a", "\u2581a", "<t>", "\u2581a"));
  EXPECT_THAT(tokens({{"prepend_scheme", "first"}}, "a<t>a"),
              ElementsAre("\u2581a", "<t>", "a"));
  EXPECT_THAT(tokens({{"prepend_scheme", "never"}}, "a a"),
              ElementsAre("a", "\u2581a"));
  // Without splitting, the lower rank wins: "▁a".
  EXPECT_THAT(tokens({{"prepend_scheme", "never"}, {"split", false}}, "a a "),
              ElementsAre("a", "\u2581a", "\u2581"));
  EXPECT_THAT(tokens({{"add_prefix_space", false}}, "a"), ElementsAre("a"));
  EXPECT_THAT(tokens(Json::object(), " a"), ElementsAre("\u2581a"));
}

TEST(TokenizerTest, SplitsLikeGpt2AndAddsASpace) {
  Json json = ByteLevelJson({"\u0120 a", "a \u0120"});
  json["pre_tokenizer"] = {{"type", "ByteLevel"}, {"add_prefix_space", true}};
  EXPECT_THAT(Tokens(MakeTokenizer(json), "a a"),
              ElementsAre("\u0120a", "\u0120a"));
  json["pre_tokenizer"] = {
      {"type", "Sequence"},
      {"pretokenizers",
       {{{"type", "Digits"}, {"individual_digits", true}},
        {{"type", "ByteLevel"}, {"add_prefix_space", false}}}}};
  EXPECT_THAT(Tokens(MakeTokenizer(json), "a 12"),
              ElementsAre("a", "\u0120", "1", "2"));
}

TEST(TokenizerTest, DecodesByEachDecoder) {
  const auto decode = [](const char* decoder) {
    Json json = SentencePieceJson({"\u2581", "a", "\u2581a"}, {});
    json["decoder"] = Json::parse(decoder);
    const Tokenizer tokenizer = MakeTokenizer(json);
    return *tokenizer.Decode({tokenizer.IdOf("\u2581a"),
                              tokenizer.IdOf("\u2581a"), tokenizer.IdOf("a"),
                              tokenizer.IdOf("\u2581")});
  };
  EXPECT_EQ(decode("null"), "\u2581a \u2581a a \u2581");
  EXPECT_EQ(decode(R"({"type":"Metaspace","replacement":"▁"})"), "a aa ");
  EXPECT_EQ(decode(R"({"type":"Metaspace","prepend_scheme":"never"})"),
            " a aa ");
  EXPECT_EQ(decode(R"({"type":"Strip","content":"▁","start":1,"stop":1})"),
            "aaa");
  EXPECT_EQ(decode(R"({"type":"Sequence","decoders":[{"type":"Fuse"},
                {"type":"Strip","content":"▁","start":2,"stop":2}]})"),
            "a\u2581aa");
}

TEST(TokenizerTest, DecodesNoIdThatThereIsNot) {
  const Tokenizer tokenizer = MakeTokenizer(ByteLevelJson());
  EXPECT_THAT(tokenizer.Decode({'a', 256}),
              StatusIs(absl::StatusCode::kInvalidArgument,
                       AllOf(HasSubstr("id 256 at position 1"),
                             HasSubstr("up to 255"))));
  EXPECT_THAT(tokenizer.Decode({-1}),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("id -1")));
  // A model may have more rows than there are tokens.
  EXPECT_THAT(Stream(tokenizer, {'a', 999, 'b'}),
              ElementsAre("a", "", "b", ""));
}

TEST(TokenizerTest, LongTextTakesNoQuadraticTime) {
  // Some 10^12 steps, or hours, if it did.
  Json json = SentencePieceJson({"\u2581", "a"}, {"a a", "\u2581 a"});
  const int left = AddToken(json, "<l>", {{"lstrip", true}});
  const Tokenizer tokenizer = MakeTokenizer(json);
  const std::string run(1 << 20, 'a');
  EXPECT_EQ(tokenizer.Encode(run).size(), 2u + (1 << 19));
  const std::string spaces(1 << 20, ' ');
  EXPECT_EQ(tokenizer.Encode(spaces + "<l>").back(), left);
  std::string opened;
  while (opened.size() < (1 << 20)) opened += "<";
  // Not EXPECT_EQ, which would print them.
  EXPECT_TRUE(*tokenizer.Decode(tokenizer.Encode(
                  opened, {/*add_special_tokens=*/false})) == opened);
}

TEST(TokenizerTest, RefusesWhatItDoesNotKnowAndSaysWhere) {
  constexpr auto kInvalid = absl::StatusCode::kInvalidArgument;
  constexpr auto kUnimplemented = absl::StatusCode::kUnimplemented;
  const auto with = [](const char* key, const char* value) {
    Json json = ByteLevelJson();
    json[key] = Json::parse(value);
    return Tokenizer::Parse(json.dump()).status();
  };
  EXPECT_THAT(with("normalizer", R"({"type":"Precompiled"})"),
              StatusIs(kUnimplemented,
                       AllOf(HasSubstr("normalizer: there is no"),
                             HasSubstr("\"Precompiled\""), HasSubstr("NFC"))));
  EXPECT_THAT(with("pre_tokenizer", R"({"type":"Sequence","pretokenizers":[
                       {"type":"BertPreTokenizer"}]})"),
              StatusIs(kUnimplemented,
                       AllOf(HasSubstr("pre_tokenizer.pretokenizers[0]: "),
                             HasSubstr("\"BertPreTokenizer\""),
                             HasSubstr("ByteLevel, Digits, Metaspace"))));
  EXPECT_THAT(
      with("pre_tokenizer", R"({"type":"Split","pattern":{"Regex":"(a)+"},
                       "behavior":"Isolated","invert":false})"),
      StatusIs(kUnimplemented, HasSubstr("pre_tokenizer.pattern: the regular "
                                         "expression \"(a)+\"")));
  EXPECT_THAT(with("pre_tokenizer",
                   R"({"type":"Split","pattern":{"String":"a"},
                       "behavior":"Sideways"})"),
              StatusIs(kInvalid, HasSubstr("behavior is \"Sideways\"")));
  EXPECT_THAT(with("pre_tokenizer", R"({"type":"Sequence","pretokenizers":[
                       {"type":"ByteLevel"},{"type":"Digits"}]})"),
              StatusIs(kUnimplemented, HasSubstr("after ByteLevel")));
  EXPECT_THAT(with("pre_tokenizer", R"({"type":"Metaspace",
                       "prepend_scheme":"last"})"),
              StatusIs(kInvalid, HasSubstr("prepend_scheme is \"last\"")));
  EXPECT_THAT(with("pre_tokenizer", R"({"type":"Metaspace",
                       "replacement":"ab"})"),
              StatusIs(kInvalid, HasSubstr("want one character")));
  EXPECT_THAT(with("post_processor", R"({"type":"BertProcessing"})"),
              StatusIs(kUnimplemented, HasSubstr("TemplateProcessing")));
  EXPECT_THAT(with("post_processor", R"({"type":"TemplateProcessing",
                       "single":[],"special_tokens":{}})"),
              StatusIs(kUnimplemented, HasSubstr("the text 0 times")));
  EXPECT_THAT(with("post_processor", R"({"type":"TemplateProcessing",
                       "single":[{"SpecialToken":{"id":"<s>"}}],
                       "special_tokens":{}})"),
              StatusIs(kInvalid, HasSubstr("there is no \"<s>\"")));
  EXPECT_THAT(with("post_processor", R"({"type":"TemplateProcessing",
                       "single":[{"SpecialToken":{"id":"<s>"}},{"Sequence":{}}],
                       "special_tokens":{"<s>":{"ids":[9999]}}})"),
              StatusIs(kInvalid, HasSubstr("adds id 9999, which no token")));
  EXPECT_THAT(with("decoder", R"({"type":"WordPiece"})"),
              StatusIs(kUnimplemented, HasSubstr("ByteFallback, ByteLevel")));
  EXPECT_THAT(with("decoder", R"({"type":"Sequence","decoders":[
                       {"type":"Fuse"},{"type":"ByteLevel"}]})"),
              StatusIs(kUnimplemented, HasSubstr("ByteLevel comes after")));
  EXPECT_THAT(with("decoder", R"({"type":"Strip","content":" ",
                       "start":-1,"stop":0})"),
              StatusIs(kInvalid, HasSubstr("start is -1")));
  EXPECT_THAT(with("normalizer", R"({"type":"Replace",
                       "pattern":{"Regex":"a"},"content":""})"),
              StatusIs(kUnimplemented, HasSubstr("\"String\"")));
  EXPECT_THAT(with("normalizer", R"({"type":"Replace",
                       "pattern":{"String":""},"content":""})"),
              StatusIs(kInvalid, HasSubstr("0 bytes; want 1 to 1024")));
  EXPECT_THAT(with("added_tokens", R"([{"id":1,"content":""}])"),
              StatusIs(kInvalid, HasSubstr("added_tokens[0]: content has 0")));
  EXPECT_THAT(with("added_tokens", R"([{"id":-1,"content":"x"}])"),
              StatusIs(kInvalid, HasSubstr("id is -1")));
  EXPECT_THAT(with("added_tokens", R"([{"id":300,"content":"<x>"},
                       {"id":300,"content":"<y>"}])"),
              StatusIs(kInvalid, HasSubstr("added_tokens[1]")));
  EXPECT_THAT(with("added_tokens", R"([{"id":300,"content":"<x>"},
                       {"id":301,"content":"<x>"}])"),
              StatusIs(kInvalid, HasSubstr("\"<x>\" too")));
  EXPECT_THAT(
      with("added_tokens", R"([{"id":300,"content":"a"}])"),
      StatusIs(kInvalid, HasSubstr("id 300, and 97 in the vocabulary")));
  EXPECT_THAT(with("added_tokens", R"([{"id":97,"content":"<x>"}])"),
              StatusIs(kInvalid, HasSubstr("that of \"a\" in the vocabulary")));
  EXPECT_THAT(with("model", "7"), StatusIs(kInvalid, HasSubstr("model: is")));
  EXPECT_THAT(
      Tokenizer::Parse("{\"model\": "),
      StatusIs(kInvalid, HasSubstr("is no JSON: parse error at line 1")));
  EXPECT_THAT(Tokenizer::Parse("[]"),
              StatusIs(kInvalid, HasSubstr("is array; want an object")));
  EXPECT_THAT(
      Tokenizer::Load("/no/such/file"),
      StatusIs(absl::StatusCode::kNotFound, HasSubstr("/no/such/file")));
}

TEST(TokenizerTest, RefusesMoreStepsThanAnyFileHas) {
  for (const auto& [key, items, step] :
       {std::tuple<const char*, const char*, const char*>{
            "normalizer", "normalizers", R"({"type":"NFC"})"},
        {"pre_tokenizer", "pretokenizers", R"({"type":"Digits"})"},
        {"decoder", "decoders", R"({"type":"ByteFallback"})"}}) {
    Json json = ByteLevelJson();
    json[key] = {{"type", "Sequence"}, {items, Json::array()}};
    for (int i = 0; i < 64; ++i) json[key][items].push_back(Json::parse(step));
    EXPECT_THAT(Tokenizer::Parse(json.dump()), IsOk());
    json[key][items].push_back(Json::parse(step));
    EXPECT_THAT(Tokenizer::Parse(json.dump()),
                StatusIs(absl::StatusCode::kInvalidArgument,
                         HasSubstr("has 65 steps; want at most 64")));
  }
}

TEST(TokenizerTest, RefusesSequencesWithinSequencesWithoutEnd) {
  for (const auto& [key, items] :
       {std::pair<const char*, const char*>{"normalizer", "normalizers"},
        {"pre_tokenizer", "pretokenizers"},
        {"post_processor", "processors"},
        {"decoder", "decoders"}}) {
    std::string deep;
    for (int i = 0; i < 10000; ++i) {
      deep += absl::StrCat("{\"type\":\"Sequence\",\"", items, "\":[");
    }
    for (int i = 0; i < 10000; ++i) deep += "]}";
    EXPECT_THAT(Tokenizer::Parse(
                    absl::StrCat("{\"", key, "\":", deep,
                                 ",\"model\":{\"vocab\":{},\"merges\":[]}}")),
                StatusIs(absl::StatusCode::kInvalidArgument,
                         HasSubstr("nests deeper than 16")));
  }
}

}  // namespace
}  // namespace strata
