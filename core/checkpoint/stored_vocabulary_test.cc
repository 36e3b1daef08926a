#include "core/checkpoint/stored_vocabulary.h"

#include <cstdint>
#include <cstring>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "core/testing/status_matchers.h"
#include "core/tokenizer/tokenizer.h"
#include "core/tokenizer/vocabulary_files.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "nlohmann/json.hpp"

namespace strata {
namespace {

using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

template <typename T>
std::string Raw(T value) {
  std::string bytes(sizeof(T), '\0');
  std::memcpy(bytes.data(), &value, sizeof(T));
  return bytes;
}

std::string Sized(const std::string& text) {
  return Raw<uint64_t>(text.size()) + text;
}

std::string Byte(int byte) {
  const char* const digits = "0123456789ABCDEF";
  return absl::StrCat("<0x", std::string(1, digits[byte / 16]),
                      std::string(1, digits[byte % 16]), ">");
}

// <unk>, <s>, </s>, the bytes, then pieces with scores 0, -1, -2, ...
struct Pieces {
  std::vector<std::string> tokens = {"<unk>", "<s>", "</s>"};
  std::vector<float> scores = {0, 0, 0};
  std::vector<int32_t> types = {2, 3, 3};
};

Pieces WithPieces(const std::vector<std::string>& pieces) {
  Pieces all;
  for (int byte = 0; byte < 256; ++byte) {
    all.tokens.push_back(Byte(byte));
    all.scores.push_back(0);
    all.types.push_back(6);
  }
  for (const std::string& piece : pieces) {
    all.scores.push_back(259 - static_cast<float>(all.tokens.size()));
    all.tokens.push_back(piece);
    all.types.push_back(1);
  }
  return all;
}

class Gguf {
 public:
  Gguf& Text(const std::string& key, const std::string& value) {
    return Add(key, Raw<uint32_t>(8) + Sized(value));
  }
  Gguf& Int(const std::string& key, uint32_t value) {
    return Add(key, Raw<uint32_t>(4) + Raw(value));
  }
  Gguf& Bool(const std::string& key, bool value) {
    return Add(key, Raw<uint32_t>(7) + Raw<uint8_t>(value));
  }
  Gguf& Strings(const std::string& key, const std::vector<std::string>& list) {
    std::string bytes = Raw<uint32_t>(8) + Raw<uint64_t>(list.size());
    for (const std::string& text : list) bytes += Sized(text);
    return Add(key, Raw<uint32_t>(9) + bytes);
  }
  template <typename T>
  Gguf& Numbers(const std::string& key, uint32_t type,
                const std::vector<T>& list) {
    std::string bytes = Raw(type) + Raw<uint64_t>(list.size());
    for (const T number : list) bytes += Raw(number);
    return Add(key, Raw<uint32_t>(9) + bytes);
  }
  std::string Build() const {
    return absl::StrCat("GGUF", Raw<uint32_t>(3), Raw<uint64_t>(0),
                        Raw<uint64_t>(num_pairs_), pairs_);
  }

 private:
  Gguf& Add(const std::string& key, const std::string& value) {
    ++num_pairs_;
    absl::StrAppend(&pairs_, Sized(key), value);
    return *this;
  }

  uint64_t num_pairs_ = 0;
  std::string pairs_;
};

Gguf Scored(const Pieces& pieces) {
  Gguf gguf;
  gguf.Text("tokenizer.ggml.model", "llama")
      .Strings("tokenizer.ggml.tokens", pieces.tokens)
      .Numbers<float>("tokenizer.ggml.scores", 6, pieces.scores)
      .Numbers<int32_t>("tokenizer.ggml.token_type", 5, pieces.types)
      .Int("tokenizer.ggml.bos_token_id", 1)
      .Int("tokenizer.ggml.eos_token_id", 2)
      .Int("tokenizer.ggml.unknown_token_id", 0)
      .Int("tokenizer.ggml.padding_token_id", UINT32_MAX);
  return gguf;
}

std::string Llama2c(const Pieces& pieces) {
  std::string bytes = Raw<int32_t>(7);
  for (size_t i = 0; i < pieces.tokens.size(); ++i) {
    std::string token = pieces.tokens[i];
    if (i == 1 || i == 2) token = "\n" + token + "\n";
    bytes += Raw(pieces.scores[i]) +
             Raw<int32_t>(static_cast<int32_t>(token.size())) + token;
  }
  return bytes;
}

Tokenizer Parsed(const absl::StatusOr<TokenizerFiles>& files) {
  EXPECT_THAT(files, IsOk());
  auto tokenizer = Tokenizer::Parse(files->tokenizer);
  EXPECT_THAT(tokenizer, IsOk());
  return *std::move(tokenizer);
}

// " a" goes before "ab" though it is lower in the text, as its score is higher.
TEST(StoredVocabularyTest, BothFormatsGiveTheSameScoredPieces) {
  const Tokenizer llama2c = Parsed(ParseLlama2cVocabulary(
      "tok.bin", Llama2c(WithPieces({" a", "ab", " ", "a", "b"}))));
  const auto files = ParseGgufVocabulary(
      "m.gguf",
      Scored(WithPieces({"\u2581a", "ab", "\u2581", "a", "b"})).Build());
  const Tokenizer gguf = Parsed(files);

  for (const Tokenizer* tokenizer : {&llama2c, &gguf}) {
    // <s> " a" "b" "ab" and the bytes of what is no piece.
    EXPECT_THAT(tokenizer->Encode("abab\n"),
                ElementsAre(1, 259, 263, 260, 3 + '\n'));
    EXPECT_EQ(*tokenizer->Decode({1, 259, 263, 260, 3 + '\n'}, true), "abab\n");
  }
  EXPECT_THAT(files->config, HasSubstr("\"eos_token\": \"</s>\""));
}

TEST(StoredVocabularyTest, GgufSaysWhatComesBeforeAText) {
  const Pieces pieces = WithPieces({"\u2581", "a"});
  Gguf gguf = Scored(pieces);
  gguf.Bool("tokenizer.ggml.add_bos_token", false)
      .Bool("tokenizer.ggml.add_space_prefix", false)
      .Text("tokenizer.chat_template", "{{ messages }}");

  const auto files = ParseGgufVocabulary("m.gguf", gguf.Build());

  EXPECT_THAT(Parsed(files).Encode("a"), ElementsAre(260));
  EXPECT_EQ(nlohmann::json::parse(files->config)["chat_template"],
            "{{ messages }}");
}

TEST(StoredVocabularyTest, ReadsMergesOfByteLevelBpe) {
  Gguf gguf;
  gguf.Text("tokenizer.ggml.model", "gpt2")
      .Text("tokenizer.ggml.pre", "qwen2")
      .Strings("tokenizer.ggml.tokens", {"a", "b", "ab", "<|end|>"})
      .Numbers<int32_t>("tokenizer.ggml.token_type", 5, {1, 1, 1, 3})
      .Strings("tokenizer.ggml.merges", {"a b"})
      .Int("tokenizer.ggml.eos_token_id", 3);

  EXPECT_THAT(
      Parsed(ParseGgufVocabulary("m.gguf", gguf.Build())).Encode("abb<|end|>"),
      ElementsAre(2, 1, 3));
}

TEST(StoredVocabularyTest, NamesTheFileAndWhatIsWrongWithIt) {
  constexpr auto kInvalid = absl::StatusCode::kInvalidArgument;
  EXPECT_THAT(ParseGgufVocabulary("m.gguf", Gguf().Build()),
              StatusIs(absl::StatusCode::kNotFound,
                       HasSubstr("m.gguf: the file has no vocabulary")));
  Gguf bert;
  bert.Text("tokenizer.ggml.model", "bert");
  EXPECT_THAT(ParseGgufVocabulary("m.gguf", bert.Build()),
              StatusIs(absl::StatusCode::kUnimplemented,
                       AllOf(HasSubstr("bert"), HasSubstr("llama, gpt2"))));
  Gguf odd;
  odd.Text("tokenizer.ggml.model", "llama")
      .Numbers<int32_t>("tokenizer.ggml.tokens", 5, {1});
  EXPECT_THAT(ParseGgufVocabulary("m.gguf", odd.Build()),
              StatusIs(kInvalid, HasSubstr("want strings")));
  Gguf twice = Scored(WithPieces({}));
  twice.Strings("tokenizer.ggml.tokens", {});
  EXPECT_THAT(ParseGgufVocabulary("m.gguf", twice.Build()),
              StatusIs(kInvalid, HasSubstr("appears twice")));
  EXPECT_THAT(ParseLlama2cVocabulary("tok.bin", ""),
              StatusIs(kInvalid, HasSubstr("tok.bin: no vocabulary")));
  EXPECT_THAT(ParseLlama2cVocabulary("tok.bin", Raw<int32_t>(1)),
              StatusIs(kInvalid, HasSubstr("it has 0 tokens")));
}

TEST(StoredVocabularyTest, AnyPrefixOfAFileIsAnError) {
  const std::string llama2c = Llama2c(WithPieces({"a"}));
  const std::string gguf = Scored(WithPieces({"\u2581"})).Build();
  for (size_t size = 0; size < llama2c.size(); size += 7) {
    const auto files =
        ParseLlama2cVocabulary("f", absl::string_view(llama2c).substr(0, size));
    // It may end behind a token, after all that must be there.
    EXPECT_TRUE(!files.ok() || size + 10 > llama2c.size()) << size;
  }
  for (size_t size = 0; size < gguf.size(); size += 7) {
    EXPECT_FALSE(
        ParseGgufVocabulary("f", absl::string_view(gguf).substr(0, size)).ok())
        << size;
  }
}

}  // namespace
}  // namespace strata
