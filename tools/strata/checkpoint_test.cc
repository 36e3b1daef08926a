// strata convert and strata verify.

#include <algorithm>
#include <filesystem>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "core/checkpoint/tiny_checkpoints.h"
#include "core/tensor/dtype.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "nlohmann/json.hpp"
#include "tools/strata/strata_fixture.h"

namespace strata {
namespace {

namespace fs = std::filesystem;
using ::testing::HasSubstr;
using Json = nlohmann::json;

class CheckpointTest : public ::testing::Test {
 protected:
  CheckpointTest() {
    const auto* test = ::testing::UnitTest::GetInstance()->current_test_info();
    base_ = absl::StrCat(::testing::TempDir(), "/", test->name());
    fs::remove_all(base_);
    const std::string text = TinyConfigText("mixtral");
    tensors_ = RandomWeights(text, DType::kBF16);
    WriteCheckpoint(Path("original"), text, tensors_);
  }
  std::string Path(const std::string& name) const {
    return absl::StrCat(base_, "/", name);
  }

  std::string base_;
  TinyTensors tensors_;
};

TEST_F(CheckpointTest, ConvertsThereAndBack) {
  const Result there = Strata({"convert", Path("original"), Path("own")});
  ASSERT_EQ(there.exit_code, 0) << there.err;
  EXPECT_THAT(there.out, HasSubstr("in the layout strata"));
  const Result back = Strata({"convert", Path("own"), Path("back")});
  ASSERT_EQ(back.exit_code, 0) << back.err;
  EXPECT_THAT(back.out, HasSubstr("in the layout huggingface"));

  const Result same = Strata({"verify", Path("original"), Path("back")});
  EXPECT_EQ(same.exit_code, 0) << same.out;
  EXPECT_THAT(same.out, HasSubstr("; 0 differ"));
  const Result other = Strata({"verify", Path("original"), Path("own")});
  EXPECT_EQ(other.exit_code, 1);
  EXPECT_THAT(other.out, HasSubstr("is only in the first"));

  ExpectFailure(Strata({"convert", Path("own"), Path("back")}), 1,
                {"back", "is there already"});
}

TEST_F(CheckpointTest, RunsAPublicCheckpointAsItIs) {
  const Result result =
      Strata({"generate", "--model", Path("original"), "--prompt-ids", "1,2,3",
              "--temperature", "0", "--max-new-tokens", "5"});
  ASSERT_EQ(result.exit_code, 0) << result.err;
  // Five numbers and four blanks.
  EXPECT_EQ(std::count(result.out.begin(), result.out.end(), ' '), 4);
}

TEST_F(CheckpointTest, KeepsOrWidensWeights) {
  const std::vector<std::string> command = {"generate",
                                            "--model",
                                            Path("original"),
                                            "--prompt-ids",
                                            "1,2,3",
                                            "--temperature",
                                            "0",
                                            "--max-new-tokens",
                                            "5"};
  const auto with = [&](const std::string& weights) {
    std::vector<std::string> args = command;
    args.insert(args.end(), {"--weights", weights});
    return Strata(args);
  };
  const Result stored = Strata(command);
  ASSERT_EQ(stored.exit_code, 0) << stored.err;
  EXPECT_EQ(with("f32").out, stored.out);
  EXPECT_EQ(with("bf16").out, stored.out);
  EXPECT_NE(with("int3").exit_code, 0);
}

// Letters alone, as the tiny models know 40 tokens.
std::string LettersTokenizer(int num_tokens) {
  Json vocabulary = {{"\u0120", 0}};
  for (int i = 1; i < num_tokens; ++i) {
    const std::string letter(1, static_cast<char>('a' + (i - 1) % 26));
    vocabulary[i <= 26 ? letter : absl::StrCat(letter, i)] = i;
  }
  const Json byte_level = {
      {"type", "ByteLevel"}, {"add_prefix_space", false}, {"use_regex", false}};
  return Json{
      {"pre_tokenizer", byte_level},
      {"decoder", byte_level},
      {"model",
       {{"type", "BPE"}, {"vocab", vocabulary}, {"merges", Json::array()}}}}
      .dump();
}

TEST_F(CheckpointTest, ContinuesTextWithTheTokenizerInTheFolder) {
  WriteAll(Path("original/tokenizer.json"), LettersTokenizer(40));
  const std::vector<std::string> options = {"--temperature", "0",
                                            "--max-new-tokens", "6"};

  const Result text =
      Strata(std::vector<std::string>{"generate", "--model", Path("original"),
                                      "--prompt", "ab c"} +
             options);
  const Result ids =
      Strata(std::vector<std::string>{"generate", "--model", Path("original"),
                                      "--prompt-ids", "1,2,0,3"} +
             options);

  ASSERT_EQ(text.exit_code, 0) << text.err;
  ASSERT_EQ(ids.exit_code, 0) << ids.err;
  const Result decoded =
      Strata({"tokenize", "--tokenizer", Path("original"), "--decode",
              ids.out.substr(0, ids.out.size() - 1)});
  EXPECT_EQ(text.out, decoded.out);
}

TEST_F(CheckpointTest, ConvertsWithTheTokenizerThatIsAskedFor) {
  const std::string letters = LettersTokenizer(40);
  WriteAll(Path("original/tokenizer.json"), letters);
  const std::string other = Path("letters.json");
  WriteAll(other, LettersTokenizer(39));
  const std::string large = Path("large.json");
  WriteAll(large, LettersTokenizer(41));
  const auto convert = [&](const std::vector<std::string>& flags) {
    fs::remove_all(Path("own"));
    return Strata(
        std::vector<std::string>{"convert", Path("original"), Path("own")} +
        flags);
  };
  const fs::path written = Path("own/tokenizer.json");

  EXPECT_EQ(convert({}).exit_code, 0);
  EXPECT_EQ(ReadAll(written), letters);
  EXPECT_EQ(convert({"--tokenizer", other}).exit_code, 0);
  EXPECT_EQ(ReadAll(written), LettersTokenizer(39));
  EXPECT_EQ(convert({"--no-tokenizer"}).exit_code, 0);
  EXPECT_FALSE(fs::exists(written));
  ExpectFailure(convert({"--tokenizer", large}), 1,
                {"41 tokens, and the model 40"});
  ExpectFailure(convert({"--tokenizer", Path("original/model.safetensors")}), 1,
                {"no vocabulary of llama2.c"});
  EXPECT_FALSE(fs::exists(Path("own")));
}

TEST_F(CheckpointTest, ReportsLogitsThatDiffer) {
  const std::string ids(4 * 2, '\0');
  TinyTensors expected;
  expected["input_ids"] = {DType::kI32, {1, 2}, ids};
  expected["logits"] = FloatTensor({1, 2, 40}, std::vector<float>(80));
  WriteCheckpoint(Path("expected"), "", expected);
  const std::string file = Path("expected/model.safetensors");

  const Result strict =
      Strata({"verify", Path("original"), "--expected", file});
  EXPECT_EQ(strict.exit_code, 1) << strict.err;
  EXPECT_THAT(strict.out, HasSubstr("(BEYOND 0.0001)"));
  const Result loose = Strata(
      {"verify", Path("original"), "--expected", file, "--tolerance", "1e9"});
  EXPECT_EQ(loose.exit_code, 0) << loose.out << loose.err;
}

TEST_F(CheckpointTest, FailsInOneLine) {
  ExpectFailure(Strata({"verify", Path("original")}), 1,
                {"nothing to verify the model by"});
  ExpectFailure(Strata({"convert", Path("nowhere"), Path("own")}), 1,
                {"nowhere is no model: want a folder"});
  tensors_.erase("model.norm.weight");
  WriteCheckpoint(Path("cut"), TinyConfigText("mixtral"), tensors_);
  ExpectFailure(Strata({"convert", Path("cut"), Path("own")}), 1,
                {"\"model.norm.weight\"", "missing"});
  EXPECT_FALSE(fs::exists(Path("own")));
}

}  // namespace
}  // namespace strata
