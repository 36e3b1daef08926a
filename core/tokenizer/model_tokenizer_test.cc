#include "core/tokenizer/model_tokenizer.h"

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "core/base/files.h"
#include "core/testing/status_matchers.h"
#include "core/tokenizer/bpe.h"
#include "core/tokenizer/tokenizer.h"
#include "core/tokenizer/tokenizer_fixture.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "nlohmann/json.hpp"

namespace strata {
namespace {

using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using Json = nlohmann::json;

class ModelTokenizerTest : public ::testing::Test {
 protected:
  ModelTokenizerTest()
      : folder_(absl::StrCat(
            ::testing::TempDir(), "/",
            ::testing::UnitTest::GetInstance()->current_test_info()->name())) {
    std::filesystem::remove_all(folder_);
    std::filesystem::create_directories(folder_);
  }

  void Write(const std::string& name, const Json& json) {
    EXPECT_THAT(
        WriteFileAtomically(absl::StrCat(folder_, "/", name), json.dump()),
        IsOk());
  }

  std::string folder_;
};

// Ids: 0 to 255 bytes, then what is added.
TEST_F(ModelTokenizerTest, FramesAPromptAsTheConfigSays) {
  Json json = ByteLevelJson();
  const Json special = {{"special", true}};
  AddToken(json, "<bos>", special);
  AddToken(json, "<eos>", special);
  json["post_processor"] = Json::parse(R"({
      "type": "TemplateProcessing",
      "single": [{"SpecialToken": {"id": "<eos>", "type_id": 0}},
                 {"Sequence": {"id": "A", "type_id": 0}}],
      "special_tokens": {"<eos>": {"ids": [257]}}})");
  Write("tokenizer.json", json);

  EXPECT_THAT(ModelTokenizer::Load(folder_)->EncodePrompt(""),
              ElementsAre(257));

  Write("tokenizer_config.json",
        {{"add_bos_token", true},
         {"bos_token", {{"content", "<bos>"}, {"lstrip", false}}},
         {"eos_token", "<eos>"}});
  const auto framed = ModelTokenizer::Load(folder_);
  ASSERT_THAT(framed, IsOk());
  EXPECT_THAT(framed->EncodePrompt(""), ElementsAre(256));
  EXPECT_THAT(framed->EncodeChat("<bos>"), ElementsAre(256));
  EXPECT_EQ(framed->end_token(), 257);

  Write("tokenizer_config.json", {{"add_bos_token", false}});
  EXPECT_TRUE(ModelTokenizer::Load(folder_)->EncodePrompt("").empty());
}

TEST_F(ModelTokenizerTest, TextEndsAtAllTokensThatTheFilesName) {
  Json json = ByteLevelJson();
  for (const char* token : {"<a>", "<b>", "</s>"}) {
    AddToken(json, token, {{"special", true}});
  }
  Write("tokenizer.json", json);

  // Nothing says which: the one that is called so.
  EXPECT_EQ(ModelTokenizer::Load(folder_)->end_token(), 258);

  Write("config.json", {{"eos_token_id", 256}});
  EXPECT_EQ(ModelTokenizer::Load(folder_)->end_token(), 256);

  Write("generation_config.json", {{"eos_token_id", {256, 257}}});
  Write("tokenizer_config.json", {{"eos_token", "<a>"}});
  const auto tokenizer = ModelTokenizer::Load(folder_);
  ASSERT_THAT(tokenizer, IsOk());
  EXPECT_EQ(tokenizer->end_token(), 256);
  EXPECT_TRUE(tokenizer->EndsText(256));
  EXPECT_TRUE(tokenizer->EndsText(257));
  EXPECT_FALSE(tokenizer->EndsText(258));
}

TEST_F(ModelTokenizerTest, TheOnlySpecialTokenEndsTexts) {
  Json json = ByteLevelJson();
  Write("tokenizer.json", json);
  EXPECT_EQ(ModelTokenizer::Load(folder_)->end_token(), Bpe::kNoId);

  AddToken(json, "<whatever>", {{"special", true}});
  Write("tokenizer.json", json);
  EXPECT_EQ(ModelTokenizer::Load(folder_)->end_token(), 256);
}

TEST_F(ModelTokenizerTest, ReadsBackWhatATrainingWrites) {
  Json json = ByteLevelJson();
  AddToken(json, "<a>", {{"special", true}});
  AddToken(json, "<b>", {{"special", true}});
  Write("tokenizer.json", json);

  Write("tokenizer_config.json", Json::parse(EndTokenConfig("<b>")));
  const auto with = ModelTokenizer::Load(folder_);
  Write("tokenizer_config.json", Json::parse(EndTokenConfig("")));
  const auto without = ModelTokenizer::Load(folder_);

  ASSERT_THAT(with, IsOk());
  EXPECT_THAT(with->EncodePrompt("a"), ElementsAre(257, 'a'));
  EXPECT_EQ(with->end_token(), 257);
  ASSERT_THAT(without, IsOk());
  EXPECT_THAT(without->EncodePrompt("a"), ElementsAre('a'));
}

TEST_F(ModelTokenizerTest, NamesTheFileAndWhatIsWrongWithIt) {
  constexpr auto kInvalid = absl::StatusCode::kInvalidArgument;
  EXPECT_THAT(ModelTokenizer::Load(folder_),
              StatusIs(absl::StatusCode::kNotFound, HasSubstr(folder_)));
  Write("tokenizer.json", ByteLevelJson());

  Write("tokenizer_config.json", {{"eos_token", "<eos>"}});
  EXPECT_THAT(ModelTokenizer::Load(folder_),
              StatusIs(kInvalid, AllOf(HasSubstr("tokenizer_config.json"),
                                       HasSubstr("\"<eos>\""))));
  Write("tokenizer_config.json", {{"add_bos_token", true}});
  EXPECT_THAT(ModelTokenizer::Load(folder_),
              StatusIs(kInvalid, HasSubstr("there is no bos_token")));
  Write("tokenizer_config.json", Json::array());
  EXPECT_THAT(ModelTokenizer::Load(folder_),
              StatusIs(kInvalid, HasSubstr("is array; want an object")));
  Write("tokenizer_config.json", Json::object());
  Write("generation_config.json", {{"eos_token_id", {1, "x"}}});
  EXPECT_THAT(ModelTokenizer::Load(folder_),
              StatusIs(kInvalid, AllOf(HasSubstr("generation_config.json"),
                                       HasSubstr("\"x\""))));
}

// The first token's space is cut off at the beginning of a text, and a text
// after a prompt has no beginning.
TEST_F(ModelTokenizerTest, AStreamAfterAPromptKeepsItsFirstSpace) {
  const Tokenizer tokenizer =
      MakeTokenizer(SentencePieceJson({"\u2581", "a", "b"}, {"\u2581 a"}));
  const std::vector<int32_t> prompt = tokenizer.Encode("b\n");
  TextStream anew(tokenizer);
  TextStream after(tokenizer);
  after.Skip(prompt);

  const int32_t id = tokenizer.IdOf("\u2581a");
  EXPECT_EQ(anew.Push(id), "a");
  // Nor is the prompt's line end, a byte token, given again.
  EXPECT_EQ(after.Push(id), " a");
}

}  // namespace
}  // namespace strata
