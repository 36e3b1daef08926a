// Training on ids of a tokenizer, and text from models that have one.

#include <cmath>
#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "core/tokenizer/utf8_stream.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "nlohmann/json.hpp"
#include "tools/strata/strata_fixture.h"

namespace strata {
namespace {

namespace fs = std::filesystem;
using ::testing::HasSubstr;
using Json = nlohmann::json;

class TextModelTest : public StrataTest {
 protected:
  static void SetUpTestSuite() {
    StrataTest::SetUpTestSuite();
    tokenizer_ = new std::string(TrainTokenizer("tokenizer.json", 300));
    ids_run_ = new std::string(Folder("ids"));
    const Result result = Strata(TrainOnIds(*ids_run_, 7));
    ASSERT_EQ(result.exit_code, 0) << result.err;
  }

  static std::string TrainTokenizer(const std::string& name, int vocab_size) {
    const std::string path = Folder(name);
    const Result result =
        Strata({"train-tokenizer", "--data", *data_, "--out", path,
                "--vocab-size", absl::StrCat(vocab_size)});
    EXPECT_EQ(result.exit_code, 0) << result.err;
    return path;
  }

  static std::vector<std::string> TrainOnIds(const std::string& out,
                                             int steps) {
    return Train(out, steps) +
           std::vector<std::string>{"--tokenizer", *tokenizer_};
  }

  static std::string Checkpoint(int step) {
    return absl::StrCat(*ids_run_, "/step-00000", step);
  }

  static std::string* tokenizer_;
  static std::string* ids_run_;  // Seven steps on ids.
};

std::string* TextModelTest::tokenizer_ = nullptr;
std::string* TextModelTest::ids_run_ = nullptr;

TEST_F(TextModelTest, TakesTheVocabularyFromTheTokenizerAndCarriesIt) {
  const Json config = Json::parse(ReadAll(Checkpoint(7) + "/config.json"));
  EXPECT_EQ(config["vocab_size"], 300);
  EXPECT_EQ(ReadAll(Checkpoint(7) + "/tokenizer.json"), ReadAll(*tokenizer_));
  const Json beside =
      Json::parse(ReadAll(Checkpoint(7) + "/tokenizer_config.json"));
  EXPECT_EQ(beside["eos_token"], "<|endoftext|>");

  ExpectFailure(Strata(TrainOnIds(Folder("conflict"), 1) +
                       std::vector<std::string>{"--set", "vocab_size=256"}),
                1, {"--set makes vocab_size 256", "300"});
  EXPECT_EQ(Strata(TrainOnIds(Folder("agrees"), 1) +
                   std::vector<std::string>{"--set", "vocab_size=300"})
                .exit_code,
            0);
}

TEST_F(TextModelTest, ResumesBitForBitWithTheCheckpointsTokenizer) {
  const std::string out = Folder("resumed-ids");
  ASSERT_EQ(Strata(TrainOnIds(out, 7)).exit_code, 0);
  fs::remove_all(fs::path(out) / "step-000007");

  const Result result =
      Strata({"train", "--data", *data_, "--resume", out, "--threads", "1"});

  ASSERT_EQ(result.exit_code, 0) << result.err;
  for (const char* file :
       {"model.safetensors", "optimizer.safetensors", "tokenizer.json",
        "tokenizer_config.json", "trainer.json"}) {
    EXPECT_TRUE(ReadAll(fs::path(out) / "step-000007" / file) ==
                ReadAll(fs::path(Checkpoint(7)) / file))
        << file;
  }
}

TEST_F(TextModelTest, NamesAnotherTokenizerThanTheCheckpoints) {
  const std::string other = TrainTokenizer("other.json", 290);
  const std::string out = Folder("other-tokenizer");
  const auto with = [&](const std::string& checkpoint) {
    return Strata({"train", "--data", *data_, "--out", out, "--resume",
                   checkpoint, "--tokenizer", other});
  };
  ExpectFailure(with(Checkpoint(6)), 1,
                {Checkpoint(6), "was trained on ids of the tokenizer",
                 "this is ids of the tokenizer"});
  ExpectFailure(with(absl::StrCat(*run_, "/step-000006")), 1,
                {"was trained on bytes; this is ids"});
}

TEST_F(TextModelTest, EvaluatesToTheBitsPerByteThatTheTrainingMeasured) {
  const Result result = Strata({"evaluate", "--model", *ids_run_, "--data",
                                *data_, "--tokens", "128", "--json"});

  ASSERT_EQ(result.exit_code, 0) << result.err;
  const Json json = Json::parse(result.out);
  const std::string metrics = ReadAll(fs::path(*ids_run_) / "metrics.jsonl");
  const std::string last =
      metrics.substr(metrics.rfind('\n', metrics.size() - 2) + 1);
  EXPECT_EQ(json["domains"], Json::parse(last)["domains"]);
  double sum = 0;
  for (const Json& domain : json["domains"]) {
    const double bytes = domain["bytes"];
    const double tokens = domain["tokens"];
    EXPECT_GT(bytes, tokens);
    EXPECT_NEAR(domain["bits_per_byte"].get<double>(),
                domain["nll"].get<double>() * tokens / bytes / std::log(2.0),
                1e-12);
    sum += domain["bits_per_byte"].get<double>();
  }
  EXPECT_NEAR(json["bits_per_byte"].get<double>(),
              sum / static_cast<double>(json["domains"].size()), 1e-12);
}

TEST_F(TextModelTest, GeneratesTextFromText) {
  const std::vector<std::string> generate = {
      "generate",         "--model", *ids_run_, "--prompt", "the caf\u00E9",
      "--max-new-tokens", "40",      "--seed",  "3"};

  const Result text = Strata(generate);
  const Result json = Strata(generate + std::vector<std::string>{"--json"});

  ASSERT_EQ(text.exit_code, 0) << text.err;
  ASSERT_EQ(json.exit_code, 0) << json.err;
  const std::string generated = Json::parse(json.out)["text"];
  EXPECT_EQ(ToUtf8(text.out), text.out);
  EXPECT_EQ(text.out.substr(0, generated.size()), generated);
  // A prompt of tokens, not of bytes.
  EXPECT_LT(Json::parse(json.out)["prompt_tokens"].get<int>(), 8);

  EXPECT_EQ(Strata({"generate", "--model", *ids_run_, "--prompt", "",
                    "--max-new-tokens", "3"})
                .exit_code,
            0);
}

TEST_F(TextModelTest, AnswersAMessageInTheTemplatesFrame) {
  const std::string model = Folder("chat-model");
  fs::copy(Checkpoint(7), model);
  const std::vector<std::string> chat = {
      "generate", "--model",          model, "--prompt", "the cat", "--chat",
      "--json",   "--max-new-tokens", "4"};
  ExpectFailure(Strata(chat), 1, {"chat_template"});
  Json config = Json::parse(ReadAll(model + "/tokenizer_config.json"));
  config["chat_template"] =
      "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}"
      "{% if add_generation_prompt %}assistant:{% endif %}";
  WriteAll(model + "/tokenizer_config.json", config.dump());

  const Result framed =
      Strata(chat + std::vector<std::string>{"--system", "x"});
  const Result spelt = Strata({"generate", "--model", model, "--prompt",
                               "system: x\nuser: the cat\nassistant:", "--json",
                               "--max-new-tokens", "4"});

  ASSERT_EQ(framed.exit_code, 0) << framed.err;
  ASSERT_EQ(spelt.exit_code, 0) << spelt.err;
  // The template writes no beginning of a text, and a plain prompt has one.
  EXPECT_EQ(Json::parse(framed.out)["prompt_tokens"].get<int>() + 1,
            Json::parse(spelt.out)["prompt_tokens"].get<int>());
  ExpectFailure(
      Strata({"generate", "--model", *run_, "--prompt", "a", "--chat"}), 1,
      {"no chat template"});
}

TEST_F(TextModelTest, NamesAModelWithoutTokenizer) {
  const std::string model = Folder("no-tokenizer");
  fs::copy(Checkpoint(7), model);
  fs::remove(model + "/tokenizer.json");
  ExpectFailure(Strata({"generate", "--model", model, "--prompt", "a"}), 1,
                {"300 tokens", "no tokenizer.json", "--prompt-ids"});
  ExpectFailure(
      Strata(Train(Folder("bad-tokenizer"), 1) +
             std::vector<std::string>{"--tokenizer", "/no/such.json"}),
      1, {"/no/such.json"});
}

}  // namespace
}  // namespace strata
