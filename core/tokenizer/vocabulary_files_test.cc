#include "core/tokenizer/vocabulary_files.h"

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/str_format.h"
#include "core/base/random.h"
#include "core/testing/status_matchers.h"
#include "core/tokenizer/byte_level.h"
#include "core/tokenizer/tokenizer.h"
#include "core/tokenizer/unicode.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "nlohmann/json.hpp"

namespace strata {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using Json = nlohmann::json;

constexpr auto kInvalid = absl::StatusCode::kInvalidArgument;

Vocabulary PiecesAndScores(
    const std::vector<std::pair<std::string, float>>& pieces) {
  Vocabulary vocabulary;
  const auto add = [&](const std::string& token, PieceType type, float score) {
    vocabulary.tokens.push_back(token);
    vocabulary.types.push_back(type);
    vocabulary.scores.push_back(score);
  };
  add("<unk>", PieceType::kUnknown, 0);
  add("<s>", PieceType::kControl, 0);
  add("</s>", PieceType::kControl, 0);
  for (int byte = 0; byte < 256; ++byte) {
    add(absl::StrFormat("<0x%02X>", byte), PieceType::kByte, 0);
  }
  for (const auto& [token, score] : pieces) {
    add(token, PieceType::kNormal, score);
  }
  vocabulary.unknown_token = 0;
  vocabulary.begin_token = 1;
  vocabulary.end_token = 2;
  vocabulary.adds_begin = true;
  return vocabulary;
}

Tokenizer Parsed(const absl::StatusOr<TokenizerFiles>& files) {
  EXPECT_THAT(files, IsOk());
  auto tokenizer = Tokenizer::Parse(files->tokenizer);
  EXPECT_THAT(tokenizer, IsOk());
  return *std::move(tokenizer);
}

// SentencePiece's algorithm, word for word: join the neighbours whose text is
// the piece of the highest score, of equals the leftmost, until none is.
std::vector<int32_t> MergeByScore(const Vocabulary& vocabulary,
                                  const std::string& text) {
  const auto find = [&](const std::string& piece) -> int64_t {
    for (size_t id = 259; id < vocabulary.tokens.size(); ++id) {
      if (vocabulary.tokens[id] == piece) return id;
    }
    return -1;
  };
  std::vector<std::string> symbols;
  for (size_t pos = 0; pos < text.size(); pos = DecodeAt(text, pos).end) {
    symbols.push_back(text.substr(pos, DecodeAt(text, pos).end - pos));
  }
  while (true) {
    size_t best = symbols.size();
    float best_score = -INFINITY;
    for (size_t i = 0; i + 1 < symbols.size(); ++i) {
      const int64_t id = find(symbols[i] + symbols[i + 1]);
      if (id >= 0 && vocabulary.scores[id] > best_score) {
        best_score = vocabulary.scores[id];
        best = i;
      }
    }
    if (best == symbols.size()) break;
    symbols[best] += symbols[best + 1];
    symbols.erase(symbols.begin() + best + 1);
  }
  std::vector<int32_t> ids;
  for (const std::string& symbol : symbols) {
    const int64_t id = find(symbol);
    if (id >= 0) {
      ids.push_back(static_cast<int32_t>(id));
    } else {
      for (const char c : symbol) {
        ids.push_back(3 + static_cast<unsigned char>(c));
      }
    }
  }
  return ids;
}

TEST(SentencePieceFilesTest, MergesAsSentencePieceDoesOnRandomVocabularies) {
  Random random(/*seed=*/11, /*stream=*/0);
  for (int trial = 0; trial < 150; ++trial) {
    std::vector<std::string> tokens = {"\u2581", "a", "b"};
    // Few letters, so that cuts of a piece overlap in a text.
    const int num_letters = trial % 3 == 0 ? 1 : 2;
    const uint64_t wanted = 4 + random.UniformInt(14);
    for (uint64_t i = 0; i < wanted; ++i) {
      std::string token = random.UniformInt(5) == 0 ? "\u2581" : "";
      const uint64_t size = 2 + random.UniformInt(6);
      for (uint64_t k = 0; k < size; ++k) {
        token += static_cast<char>('a' + random.UniformInt(num_letters));
      }
      if (std::find(tokens.begin(), tokens.end(), token) == tokens.end()) {
        tokens.push_back(token);
      }
    }
    std::vector<std::pair<std::string, float>> pieces;
    for (const std::string& token : tokens) {
      // Distinct, as 2^24 numbers hardly give one twice.
      pieces.emplace_back(token,
                          -static_cast<float>(random.UniformInt(1 << 24)));
    }
    const Vocabulary vocabulary = PiecesAndScores(pieces);
    const Tokenizer tokenizer = Parsed(SentencePieceFiles(vocabulary));
    for (int text_number = 0; text_number < 4; ++text_number) {
      std::string text;
      std::string marked = "\u2581";
      const uint64_t size = 1 + random.UniformInt(40);
      for (uint64_t k = 0; k < size; ++k) {
        const uint64_t letter = random.UniformInt(12);
        text +=
            letter == 0
                ? ' '
                : "abc\n"[letter == 1 ? 2 + size % 2 : letter % num_letters];
        marked += text.back() == ' ' ? "\u2581" : text.substr(text.size() - 1);
      }
      EXPECT_EQ(tokenizer.Encode(text, {/*add_special_tokens=*/false}),
                MergeByScore(vocabulary, marked))
          << text;
      EXPECT_EQ(*tokenizer.Decode(tokenizer.Encode(text), true), text);
    }
  }
}

TEST(SentencePieceFilesTest, FramesTextAndKeepsControlPiecesOutOfMerges) {
  Vocabulary vocabulary = PiecesAndScores(
      {{"\u2581", -1}, {"a", -2}, {"<", -3}, {"s", -4}, {">", -5}, {"aa", -6}});
  const auto files = SentencePieceFiles(vocabulary);
  const Tokenizer tokenizer = Parsed(files);

  EXPECT_THAT(tokenizer.Encode("aa"), ElementsAre(1, 259, 264));
  // Typed by a user it is text: "<", "s", ">".
  EXPECT_THAT(tokenizer.Encode("<s>", {false, false}),
              ElementsAre(259, 261, 262, 263));
  const Json config = Json::parse(files->config);
  EXPECT_EQ(config["add_bos_token"], true);
  EXPECT_EQ(config["eos_token"], "</s>");
  EXPECT_EQ(files->num_ties, 0);

  vocabulary.adds_space_prefix = false;
  vocabulary.adds_begin = false;
  EXPECT_THAT(Parsed(SentencePieceFiles(vocabulary)).Encode("aa"),
              ElementsAre(264));
}

TEST(SentencePieceFilesTest, CountsScoresThatPiecesShare) {
  const auto files = SentencePieceFiles(PiecesAndScores(
      {{"a", 0}, {"b", 0}, {"ab", -1}, {"ba", -1}, {"aa", -2}}));
  ASSERT_THAT(files, IsOk());
  EXPECT_EQ(files->num_ties, 1);
}

TEST(SentencePieceFilesTest, NamesWhatIsWrong) {
  Vocabulary two = PiecesAndScores({{"a", 0}, {"a", -1}});
  EXPECT_THAT(SentencePieceFiles(two),
              StatusIs(kInvalid, HasSubstr("259 and 260 are both \"a\"")));
  Vocabulary nan = PiecesAndScores({{"a", NAN}});
  EXPECT_THAT(SentencePieceFiles(nan),
              StatusIs(kInvalid, HasSubstr("score of token 259 is NaN")));
  Vocabulary few = PiecesAndScores({});
  few.scores.pop_back();
  EXPECT_THAT(SentencePieceFiles(few),
              StatusIs(kInvalid, HasSubstr("258 scores of 259 tokens")));
  Vocabulary bytes = PiecesAndScores({{"\xFF", 0}});
  EXPECT_THAT(SentencePieceFiles(bytes),
              StatusIs(kInvalid, HasSubstr("token 259")));
  Vocabulary end = PiecesAndScores({});
  end.end_token = 259;
  EXPECT_THAT(SentencePieceFiles(end),
              StatusIs(kInvalid, HasSubstr("the end token is 259 of 259")));
  EXPECT_THAT(SentencePieceFiles(Vocabulary()),
              StatusIs(kInvalid, HasSubstr("0 tokens")));
}

TEST(ByteLevelFilesTest, SplitsAndMergesAsTheFileSays) {
  Vocabulary vocabulary;
  for (int byte = 0; byte < 256; ++byte) {
    vocabulary.tokens.push_back(
        ToByteLevel(std::string(1, static_cast<char>(byte))));
  }
  for (const char* token : {"ab", "\u0120ab", "12", "<|end|>"}) {
    vocabulary.tokens.push_back(token);
  }
  vocabulary.types.assign(260, PieceType::kNormal);
  vocabulary.types.back() = PieceType::kControl;
  vocabulary.merges = {"a b", "\u0120 ab", "1 2"};
  vocabulary.end_token = 259;

  for (const char* splitter : {"gpt-2", "llama-bpe", "qwen2", "deepseek-v3"}) {
    vocabulary.splitter = splitter;
    const Tokenizer tokenizer = Parsed(ByteLevelFiles(vocabulary));
    EXPECT_THAT(tokenizer.Encode("ab ab<|end|>"), ElementsAre(256, 257, 259));
    // Qwen's digits are pieces of their own.
    if (std::string(splitter) == "qwen2") {
      EXPECT_THAT(tokenizer.Encode("12"), ElementsAre('1', '2'));
    } else {
      EXPECT_THAT(tokenizer.Encode("12"), ElementsAre(258));
    }
  }
  vocabulary.splitter = "odd";
  EXPECT_THAT(ByteLevelFiles(vocabulary),
              StatusIs(absl::StatusCode::kUnimplemented,
                       HasSubstr("no splitter \"odd\" here; supported are "
                                 "gpt-2, phi-2, llama-bpe")));
  vocabulary.splitter = "gpt-2";
  vocabulary.merges = {"a q"};
  EXPECT_THAT(ByteLevelFiles(vocabulary),
              StatusIs(kInvalid, HasSubstr("lacks \"aq\"")));
}

}  // namespace
}  // namespace strata
