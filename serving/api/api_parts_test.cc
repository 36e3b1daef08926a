// The parts of the API that need no server.

#include <cstdint>
#include <filesystem>
#include <limits>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/time/time.h"
#include "core/base/files.h"
#include "core/base/sha256.h"
#include "core/testing/status_matchers.h"
#include "core/tokenizer/tokenizer_fixture.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "serving/api/answer_text.h"
#include "serving/api/api_keys.h"
#include "serving/api/api_request.h"
#include "serving/api/fields.h"
#include "serving/api/rate_limiter.h"
#include "serving/api/text_codec.h"

namespace strata {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

std::unique_ptr<TextCodec> ByteCodec() {
  auto codec = LoadTextCodec(testing::TempDir(), 256);
  EXPECT_THAT(codec, IsOk());
  return *std::move(codec);
}

// --- AnswerText ---

struct Shown {
  std::vector<std::string> pieces;  // Of each byte, and of the end.
  bool stopped = false;
};
Shown ShowBytes(const std::string& text, std::vector<std::string> stop) {
  const auto codec = ByteCodec();
  AnswerText answer(codec->NewText({}), std::move(stop));
  Shown shown;
  for (const char c : text) {
    shown.pieces.push_back(answer.Push(static_cast<unsigned char>(c)));
  }
  shown.pieces.push_back(answer.Finish());
  shown.stopped = answer.stopped();
  return shown;
}

TEST(AnswerTextTest, HoldsBackWhatMayBecomeAStopString) {
  const Shown shown = ShowBytes("abcd", {"bcx"});
  EXPECT_THAT(shown.pieces, ElementsAre("a", "", "", "bcd", ""));
  EXPECT_FALSE(shown.stopped);
}

TEST(AnswerTextTest, GivesTheTextBeforeTheFirstStopString) {
  const Shown shown = ShowBytes("abcd", {"d", "bc"});
  EXPECT_THAT(shown.pieces, ElementsAre("a", "", "", "", ""));
  EXPECT_TRUE(shown.stopped);
}

TEST(AnswerTextTest, GivesWhatWasHeldBackAtTheEnd) {
  EXPECT_THAT(ShowBytes("ab", {"bc"}).pieces, ElementsAre("a", "", "b"));
}

TEST(AnswerTextTest, FindsAStopStringThatOverlapsItsOwnBeginning) {
  // "aab" in "aaab": the first a is text.
  EXPECT_THAT(ShowBytes("aaab", {"aab"}).pieces,
              ElementsAre("", "", "a", "", ""));
}

TEST(AnswerTextTest, NeverEndsInsideACharacter) {
  EXPECT_THAT(ShowBytes("\xe2\x82\xac.", {}).pieces,
              ElementsAre("", "", "\xe2\x82\xac", ".", ""));
  EXPECT_THAT(ShowBytes("\xe2\x82", {"\xef\xbf\xbd"}).pieces,
              ElementsAre("", "", ""))
      << "half a character becomes U+FFFD, which stops";
}

// --- TextCodec::Bytes ---

// Of both kinds of vocabulary: what tokens add inside a text.
TEST(TextCodecTest, TellsTheBytesOfTokens) {
  EXPECT_EQ(ByteCodec()->Bytes('a'), "a");
  EXPECT_EQ(ByteCodec()->Bytes(0xE2), "\xE2");
  EXPECT_EQ(ByteCodec()->Bytes(0), "") << "the boundary is no text";

  const std::string dir = absl::StrCat(testing::TempDir(), "/bytes_of_tokens");
  const auto load = [&](const nlohmann::json& json) {
    std::filesystem::create_directories(dir);
    EXPECT_THAT(
        WriteFileAtomically(absl::StrCat(dir, "/tokenizer.json"), json.dump()),
        IsOk());
    auto codec = LoadTextCodec(dir, 1000);
    EXPECT_THAT(codec, IsOk());
    return *std::move(codec);
  };
  nlohmann::json levels = ByteLevelJson({"\u0120 a"});
  const int special =
      AddToken(levels, "<end>", nlohmann::json{{"special", true}});
  const auto byte_level = load(levels);
  EXPECT_EQ(byte_level->Bytes(0xE2), "\xE2");
  EXPECT_EQ(byte_level->Bytes(256), " a");
  EXPECT_EQ(byte_level->Bytes(special), "");
  EXPECT_EQ(byte_level->Bytes(999), "");

  const auto piece = load(SentencePieceJson({"\u2581", "a"}, {"\u2581 a"}));
  EXPECT_EQ(piece->Bytes(3 + 0xE2), "\xE2");
  EXPECT_EQ(piece->Bytes(259), " ");
  EXPECT_EQ(piece->Bytes(261), " a");
}

// --- RateLimiter ---

TEST(RateLimiterTest, LetsAMinutesRequestsPassAtOnceThenAsTheBucketFills) {
  RateLimiter limiter(/*per_minute=*/6);
  const absl::Time start = absl::UnixEpoch();
  for (int i = 0; i < 6; ++i) {
    EXPECT_EQ(limiter.Take("a", start), absl::ZeroDuration());
  }
  EXPECT_EQ(limiter.Take("a", start), absl::Seconds(10));
  EXPECT_EQ(limiter.Take("b", start), absl::ZeroDuration());
  EXPECT_EQ(limiter.Take("a", start + absl::Seconds(4)), absl::Seconds(6));
  EXPECT_EQ(limiter.Take("a", start + absl::Seconds(10)), absl::ZeroDuration());
  EXPECT_GT(limiter.Take("a", start + absl::Seconds(10)), absl::ZeroDuration());
}

TEST(RateLimiterTest, ForgetsWhoHasNotAskedForAMinute) {
  RateLimiter limiter(1);
  const absl::Time start = absl::UnixEpoch();
  for (int i = 0; i < 100; ++i) limiter.Take(absl::StrCat(i), start);
  EXPECT_EQ(limiter.num_clients(), 100);
  limiter.Take("x", start + absl::Minutes(2));
  EXPECT_EQ(limiter.num_clients(), 1);
}

// --- ApiKeys ---

TEST(ApiKeysTest, SaysWhichKeyItIs) {
  const auto keys = ApiKeys::Parse(
      absl::StrCat(Sha256Hex("one"), "\n", Sha256Hex("two"), "\n"));
  ASSERT_THAT(keys, IsOk());
  EXPECT_EQ(keys->Find("one"), 0);
  EXPECT_EQ(keys->Find("two"), 1);
  EXPECT_EQ(keys->Find("three"), -1);
}

TEST(ApiKeysTest, KnowsItsKeysInEitherCaseOfTheirHash) {
  std::string hash = Sha256Hex("two");
  for (char& c : hash) c = toupper(c);
  const auto keys = ApiKeys::Parse(
      absl::StrCat("# ours\n\n", Sha256Hex("one"), "  a name\n", hash, "\n"));
  ASSERT_THAT(keys, IsOk());
  EXPECT_TRUE(keys->Contains("one"));
  EXPECT_TRUE(keys->Contains("two"));
  EXPECT_FALSE(keys->Contains("three"));
  EXPECT_FALSE(keys->Contains(""));
}

TEST(ApiKeysTest, RefusesAFileThatHoldsAKeyAndDoesNotShowIt) {
  const absl::Status status = ApiKeys::Parse("sk-my-key\n").status();
  EXPECT_THAT(status, StatusIs(absl::StatusCode::kInvalidArgument,
                               HasSubstr("line 1")));
  EXPECT_THAT(std::string(status.message()),
              ::testing::Not(HasSubstr("sk-my-key")));
  EXPECT_THAT(
      ApiKeys::Parse("# none\n").status(),
      StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("no key")));
}

// --- TextCodec ---

constexpr char kTemplate[] =
    "{% for m in messages %}<u>{{ m.content }}</u>{% endfor %}<a>";

// A folder with a byte-level tokenizer, <u>, </u>, <a> as special tokens and,
// if `chat`, a template.
std::string Folder(const std::string& name, bool chat) {
  const std::string dir = absl::StrCat(testing::TempDir(), "/", name);
  std::filesystem::create_directories(dir);
  nlohmann::json json = ByteLevelJson();
  for (const char* token : {"<u>", "</u>", "<a>"}) {
    AddToken(json, token, {{"special", true}});
  }
  EXPECT_THAT(WriteFileAtomically(dir + "/tokenizer.json", json.dump()),
              IsOk());
  EXPECT_THAT(WriteFileAtomically(dir + "/generation_config.json",
                                  R"({"eos_token_id": [257, 258]})"),
              IsOk());
  if (chat) {
    EXPECT_THAT(WriteFileAtomically(
                    dir + "/tokenizer_config.json",
                    nlohmann::json{{"chat_template", kTemplate}}.dump()),
                IsOk());
  }
  return dir;
}

TEST(TextCodecTest, RendersAConversationAndStopsWhereTheModelSays) {
  const auto codec = LoadTextCodec(Folder("chat", true), 300);
  ASSERT_THAT(codec, IsOk());
  EXPECT_THAT((*codec)->stop_ids(), ElementsAre(257, 258));
  const auto tokens =
      (*codec)->EncodeChat({{{"role", "user"}, {"content", "h"}}});
  ASSERT_THAT(tokens, IsOk());
  ASSERT_EQ(tokens->size(), 4);
  EXPECT_EQ((*tokens)[0], 256);
  EXPECT_EQ((*tokens)[2], 257);
  EXPECT_EQ((*tokens)[3], 258);
}

TEST(TextCodecTest, APromptDoesNotSpellSpecialTokens) {
  const auto codec = LoadTextCodec(Folder("plain", false), 300);
  ASSERT_THAT(codec, IsOk());
  EXPECT_EQ((*codec)->Encode("<a>").size(), 3);
  EXPECT_THAT((*codec)->EncodeChat(nlohmann::ordered_json::array()).status(),
              StatusIs(absl::StatusCode::kFailedPrecondition,
                       HasSubstr("no chat template")));
}

// SentencePiece's decoders drop the space that a text begins with, but what
// continues a prompt is no beginning.
TEST(TextCodecTest, KeepsTheSpaceThatFollowsAPrompt) {
  const std::string dir = absl::StrCat(testing::TempDir(), "/pieces");
  std::filesystem::create_directories(dir);
  const std::string space = "\xE2\x96\x81";
  nlohmann::json json =
      SentencePieceJson({space, "a", "b"}, {space + " a", space + " b"});
  json["post_processor"] = nullptr;
  ASSERT_THAT(WriteFileAtomically(dir + "/tokenizer.json", json.dump()),
              IsOk());
  const auto codec = LoadTextCodec(dir, 300);
  ASSERT_THAT(codec, IsOk());
  const auto text_after = [&](const std::vector<int32_t>& prompt) {
    const auto text = (*codec)->NewText(prompt);
    std::string all;
    for (const int32_t id : (*codec)->Encode("b")) all += text->Push(id);
    return all + text->Finish();
  };
  EXPECT_EQ(text_after((*codec)->Encode("a")), " b");
  EXPECT_EQ(text_after({}), "b");
}

TEST(TextCodecTest, SaysWhatIsMissing) {
  EXPECT_THAT(LoadTextCodec(testing::TempDir(), 1000).status(),
              StatusIs(absl::StatusCode::kNotFound,
                       HasSubstr("no tokenizer.json, and its vocabulary of "
                                 "1000")));
  EXPECT_THAT(LoadTextCodec(Folder("large", false), 258).status(),
              StatusIs(absl::StatusCode::kInvalidArgument,
                       HasSubstr("ids up to 258; the model has tokens 0 to "
                                 "257")));
}

// --- ReadApiRequest ---

TEST(ApiRequestTest, ReadsAConversation) {
  const auto codec = LoadTextCodec(Folder("request", true), 300);
  ASSERT_THAT(codec, IsOk());
  ApiLimits limits;
  limits.model = "m";
  limits.vocab_size = 300;
  limits.max_tokens = 100;
  const auto request =
      ReadApiRequest(true,
                     R"({"messages": [{"role": "user", "content": [
            {"type": "text", "text": "a"}, {"type": "text", "text": "b"}]}],
          "top_k": 5, "min_p": 0.1, "seed": 9, "stop": "x", "user": "u",
          "logprobs": true, "top_logprobs": 3, "stream": true})",
                     **codec, limits);
  ASSERT_THAT(request, IsOk());
  EXPECT_EQ(request->prompts[0].size(), 5) << "<u> a b </u> <a>";
  EXPECT_EQ(request->engine.max_new_tokens, 100) << "to the end";
  EXPECT_EQ(request->engine.sampling.draw.top_k, 5);
  EXPECT_EQ(request->engine.sampling.draw.seed, 9);
  EXPECT_EQ(request->engine.num_logprobs, 3);
  EXPECT_THAT(request->stop, ElementsAre("x"));
  EXPECT_TRUE(request->stream);

  EXPECT_THAT(ReadApiRequest(true,
                             R"({"messages": [{"role": "user", "content": [
                           {"type": "image_url"}]}]})",
                             **codec, limits),
              StatusIs(absl::StatusCode::kInvalidArgument,
                       HasSubstr("messages[0].content")));
  EXPECT_THAT(
      ReadApiRequest(true, R"({"messages": [], "tools": []})", **codec, limits),
      StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("\"tools\"")));
}

// --- Fields ---

TEST(FieldsTest, ReadsWholeNumbersInAllTheirForms) {
  const auto read = [](const std::string& number, int64_t min, int64_t max) {
    const auto json = ParseBody(absl::StrCat("{\"n\": ", number, "}"));
    EXPECT_THAT(json, IsOk());
    Fields fields(*json);
    const int64_t value = fields.Int("n", 0, min, max);
    return fields.Finish().ok() ? absl::StrCat(value) : "error";
  };
  constexpr int64_t kMax = std::numeric_limits<int64_t>::max();
  EXPECT_EQ(read("5", 0, 5), "5");
  EXPECT_EQ(read("6", 0, 5), "error");
  EXPECT_EQ(read("4", 5, 9), "error");
  EXPECT_EQ(read("-1", -1, 5), "-1");
  EXPECT_EQ(read("-2", -1, 5), "error");
  EXPECT_EQ(read("3.0", 0, 5), "3");
  EXPECT_EQ(read("1e3", 0, 5000), "1000");
  EXPECT_EQ(read("3.5", 0, 5), "error");
  EXPECT_EQ(read("1e300", 0, kMax), "error");
  EXPECT_EQ(read("9223372036854775807", 0, kMax), "9223372036854775807");
  EXPECT_EQ(read("18446744073709551615", 0, kMax), "error");
  EXPECT_EQ(read("5", -9, -1), "error");
}

TEST(ApiRequestTest, RequestsWithoutASeedDiffer) {
  const auto codec = ByteCodec();
  ApiLimits limits;
  limits.vocab_size = 256;
  limits.max_tokens = 100;
  const auto read = [&] {
    return ReadApiRequest(false, R"({"prompt": "a"})", *codec, limits)
        ->engine.sampling.draw.seed;
  };
  EXPECT_NE(read(), read());
}

}  // namespace
}  // namespace strata
