// Runs strata tokenize, as a user would.

#include <filesystem>
#include <string>
#include <vector>

#include "core/tokenizer/tokenizer_fixture.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "nlohmann/json.hpp"
#include "tools/strata/strata_fixture.h"

namespace strata {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;
using Json = nlohmann::json;

// Writes a file; returns its path.
std::string File(const std::string& name, const std::string& content) {
  const std::string path = ::testing::TempDir() + "/" + name;
  WriteAll(path, content);
  return path;
}

// "ab" is token 256.
std::string TokenizerFile() {
  static const std::string path =
      File("tokenizer.json", ByteLevelJson({"a b"}).dump());
  return path;
}

Result Tokenize(const std::vector<std::string>& args) {
  return Strata(
      std::vector<std::string>{"tokenize", "--tokenizer", TokenizerFile()} +
      args);
}

TEST(TokenizeTest, PrintsIdsAndTheTextOfIds) {
  EXPECT_EQ(Tokenize({"ab a"}).out, "256 32 97\n");
  EXPECT_EQ(Tokenize({"--decode", "256 32, 97"}).out, "ab a\n");
  EXPECT_EQ(Tokenize({"--file", File("text", "ab\n")}).out, "256 10\n");
  const Json json = Json::parse(Tokenize({"--json", "ab "}).out);
  EXPECT_EQ(json["ids"], Json({256, 32}));
  EXPECT_EQ(json["tokens"], Json({"ab", "\u0120"}));
  EXPECT_EQ(Json::parse(Tokenize({"--json", "--decode", "256"}).out)["text"],
            "ab");
  // The folder will do.
  EXPECT_EQ(Strata({"tokenize", "--tokenizer", ::testing::TempDir(), "ab"}).out,
            "256\n");
}

TEST(TokenizeTest, SaysWhereTextIsNotUtf8) {
  const Result result = Tokenize({"--file", File("bytes", "a\xFF")});
  EXPECT_EQ(result.exit_code, 0);
  EXPECT_EQ(result.out, "97 239 191 189\n");
  EXPECT_THAT(result.err, HasSubstr("byte 1 begins no UTF-8 character"));
}

TEST(TokenizeTest, ComparesWithVectors) {
  const std::string good =
      File("good.json", R"([{"text":"ab","ids":[256]},{"text":"","ids":[]}])");
  const std::string bad =
      File("bad.json", R"([{"text":"ab","ids":[97,98]},{"text":"a","ids":[98]},
                           {"text":"b","ids":[999]},{"text":"b","ids":[98]}])");
  Result result = Tokenize({"--vectors", good});
  EXPECT_EQ(result.exit_code, 0);
  EXPECT_EQ(result.out, "2 of 2 texts agree in ids and back\n");

  result = Tokenize({"--vectors", bad});
  EXPECT_EQ(result.exit_code, 1);
  EXPECT_THAT(
      result.out,
      AllOf(HasSubstr("entry 0, \"ab\"\n  ids       256\n  expected  97 98\n"),
            HasSubstr("entry 1, \"a\"\n  ids       97\n  expected  98\n"
                      "  decoded   \"b\"\n"),
            HasSubstr("id 999"), HasSubstr("1 of 4 texts agree")));

  result = Tokenize({"--vectors", bad, "--json"});
  EXPECT_EQ(result.exit_code, 1);
  const Json json = Json::parse(result.out);
  EXPECT_EQ(json["agree"], 1);
  EXPECT_EQ(json["differences"].size(), 3);
}

TEST(TokenizeTest, RendersChats) {
  File("tokenizer_config.json",
       R"({"bos_token":"<b>","chat_template":"{{bos_token}}{% for m in )"
       R"(messages %}{{m.role}}:{{m.content}};{% endfor %}{{tone}}{{'>' )"
       R"(if add_generation_prompt}}"})");
  const std::string messages = R"([{"role":"user","content":"ab"}])";
  EXPECT_EQ(Tokenize({"--chat", File("chat.json", messages)}).out,
            "<b>user:ab;>\n");
  const std::string object =
      "{\"add_generation_prompt\":false,\"tone\":\"!\","
      "\"messages\":" +
      messages + "}";
  const Json json = Json::parse(
      Tokenize({"--json", "--chat", File("chat2.json", object)}).out);
  EXPECT_EQ(json["text"], "<b>user:ab;!");
  EXPECT_EQ(json["ids"].size(), 11);  // Of 12 characters, "ab" is one.
  ExpectFailure(Tokenize({"--chat", File("chat3.json", "{}")}), 1,
                {"messages are null"});
  ExpectFailure(Tokenize({"--chat", File("chat4.json", "[")}), 1,
                {"chat4.json", "is no JSON"});
}

TEST(TokenizeTest, TrainsATokenizer) {
  const std::string folder = ::testing::TempDir() + "/corpus/prose";
  std::filesystem::create_directories(folder);
  std::string text;
  for (int i = 0; i < 2000; ++i) text += "the cat sat on the mat. ";
  WriteAll(folder + "/a.txt", text);
  const std::string out = ::testing::TempDir() + "/trained.json";
  const std::vector<std::string> args = {"train-tokenizer",
                                         "--data",
                                         ::testing::TempDir() + "/corpus",
                                         "--out",
                                         out,
                                         "--vocab-size",
                                         "262",
                                         "--special-token",
                                         "<|end|>"};

  const Result result = Strata(args + std::vector<std::string>{"--json"});

  ASSERT_EQ(result.exit_code, 0) << result.err;
  const Json json = Json::parse(result.out);
  EXPECT_EQ(json["vocab_size"], 262);
  EXPECT_GT(json["bytes_per_token"], 1.5);
  EXPECT_EQ(Strata({"tokenize", "--tokenizer", out, "<|end|>"}).out, "0\n");
  ExpectFailure(Strata(args), 1, {"trained.json", "--overwrite"});
  ExpectFailure(
      Strata({"train-tokenizer", "--data", ::testing::TempDir() + "/corpus",
              "--out", out, "--overwrite", "--vocab-size", "100"}),
      1, {"vocab_size is 100; want 257"});
}

TEST(TokenizeTest, FailsInOneLine) {
  ExpectFailure(Strata({"tokenize", "a"}), 2, {"--tokenizer"});
  ExpectFailure(Strata({"tokenize", "--tokenizer", "/no/such", "a"}), 1,
                {"/no/such"});
  ExpectFailure(Tokenize({"--decode", "1 x"}), 1, {"\"x\" is no id"});
  ExpectFailure(Tokenize({"--decode", "999"}), 1, {"id 999", "up to 256"});
  ExpectFailure(Tokenize({"--vectors", File("v1", "{}")}), 1, {"is no list"});
  ExpectFailure(Tokenize({"--vectors", File("v2", "[")}), 1, {"is no JSON"});
  ExpectFailure(Tokenize({"--vectors", File("v3", "[{\"text\":1}]")}), 1,
                {"entry 0 has no text"});
  ExpectFailure(Tokenize({"--vectors", File("v4", "[{\"text\":\"\"}]")}), 1,
                {"entry 0 has no ids"});
  ExpectFailure(
      Tokenize({"--vectors", File("v5", R"([{"text":"","ids":["a"]}])")}), 1,
      {"entry 0 has the id \"a\""});
  ExpectFailure(
      Strata({"tokenize", "--tokenizer",
              File("odd.json", R"({"pre_tokenizer":{"type":"Odd"}})"), "a"}),
      1, {"odd.json", "pre_tokenizer", "\"Odd\"", "ByteLevel"});
}

}  // namespace
}  // namespace strata
