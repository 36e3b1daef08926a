#include "serving/api/text_codec.h"

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "core/base/status_macros.h"
#include "core/tokenizer/byte_level.h"
#include "core/tokenizer/chat_template.h"
#include "core/tokenizer/model_tokenizer.h"
#include "core/tokenizer/tokenizer.h"
#include "core/tokenizer/utf8_stream.h"
#include "nlohmann/json.hpp"

namespace strata {
namespace {

constexpr int64_t kByteVocabSize = 256;
constexpr int32_t kBoundary = 0;

// --- Bytes ---

class ByteText : public TokenText {
 public:
  std::string Push(int32_t token) override {
    return stream_.Push(static_cast<unsigned char>(token));
  }
  std::string Finish() override { return stream_.Finish(); }

 private:
  Utf8Stream stream_;
};

class ByteCodec : public TextCodec {
 public:
  ByteCodec() { stop_ids_ = {kBoundary}; }

  std::vector<int32_t> Encode(absl::string_view text) const override {
    std::vector<int32_t> tokens = {kBoundary};
    for (const char c : text) tokens.push_back(static_cast<unsigned char>(c));
    return tokens;
  }

  absl::StatusOr<std::vector<int32_t>> EncodeChat(
      const nlohmann::ordered_json& messages) const override {
    return absl::FailedPreconditionError(
        "the model has no chat template; use /v1/completions");
  }

  std::unique_ptr<TokenText> NewText(
      absl::Span<const int32_t> prompt) const override {
    return std::make_unique<ByteText>();
  }

  std::string Show(int32_t token) const override {
    return ToUtf8(std::string(1, static_cast<char>(token)));
  }

  std::string Bytes(int32_t token) const override {
    if (token == kBoundary) return "";
    return std::string(1, static_cast<char>(token));
  }
};

// --- tokenizer.json ---

class TokenizerText : public TokenText {
 public:
  TokenizerText(const Tokenizer& tokenizer, absl::Span<const int32_t> prompt)
      : stream_(tokenizer) {
    stream_.Skip(prompt);
  }
  std::string Push(int32_t token) override { return stream_.Push(token); }
  std::string Finish() override { return stream_.Finish(); }

 private:
  TextStream stream_;
};

class TokenizerCodec : public TextCodec {
 public:
  TokenizerCodec(ModelTokenizer tokenizer, std::optional<ChatTemplate> chat)
      : tokenizer_(std::move(tokenizer)), chat_(std::move(chat)) {
    stop_ids_.assign(tokenizer_.end_tokens().begin(),
                     tokenizer_.end_tokens().end());
    // Byte-level vocabularies have a token for each byte.
    const int32_t space = tokenizer_.tokenizer().IdOf(ToByteLevel(" "));
    is_byte_level_ = space != Bpe::kNoId && InsideText(space) == " ";
  }

  std::vector<int32_t> Encode(absl::string_view text) const override {
    return tokenizer_.EncodePrompt(text, /*find_special_tokens=*/false);
  }

  absl::StatusOr<std::vector<int32_t>> EncodeChat(
      const nlohmann::ordered_json& messages) const override {
    if (!chat_.has_value()) {
      return absl::FailedPreconditionError(
          "the model has no chat template; use /v1/completions");
    }
    ASSIGN_OR_RETURN(const std::string text, chat_->Render(messages));
    return tokenizer_.EncodeChat(text);
  }

  std::unique_ptr<TokenText> NewText(
      absl::Span<const int32_t> prompt) const override {
    return std::make_unique<TokenizerText>(tokenizer_.tokenizer(), prompt);
  }

  std::string Show(int32_t token) const override {
    const auto text = tokenizer_.tokenizer().Decode({token});
    return text.ok() ? *text : std::string();
  }

  std::string Bytes(int32_t token) const override {
    const Tokenizer& tokenizer = tokenizer_.tokenizer();
    const std::string* const spelled = tokenizer.TokenOf(token);
    if (spelled == nullptr || tokenizer.IsSpecial(token)) return "";
    std::string bytes;
    if (is_byte_level_) {
      return FromByteLevel(*spelled, bytes) ? bytes : *spelled;
    }
    uint32_t byte = 0;
    if (spelled->size() == 6 && absl::StartsWith(*spelled, "<0x") &&
        spelled->back() == '>' &&
        absl::SimpleHexAtoi(spelled->substr(3, 2), &byte)) {
      return std::string(1, static_cast<char>(byte));
    }
    return InsideText(token);
  }

 private:
  // What a token is shown as where it does not begin the text.
  std::string InsideText(int32_t token) const {
    TextStream stream(tokenizer_.tokenizer());
    stream.Skip({token});
    return stream.Push(token) + stream.Finish();
  }

  ModelTokenizer tokenizer_;
  std::optional<ChatTemplate> chat_;
  bool is_byte_level_ = false;
};

}  // namespace

absl::StatusOr<std::unique_ptr<TextCodec>> LoadTextCodec(const std::string& dir,
                                                         int64_t vocab_size) {
  if (!HasTokenizer(dir)) {
    if (vocab_size == kByteVocabSize) return std::make_unique<ByteCodec>();
    return absl::NotFoundError(absl::StrCat(
        dir, " has no ", kTokenizerFile, ", and its vocabulary of ", vocab_size,
        " tokens is not the ", kByteVocabSize, " bytes"));
  }
  ASSIGN_OR_RETURN(ModelTokenizer tokenizer, ModelTokenizer::Load(dir));
  const int64_t num_ids = tokenizer.tokenizer().vocab_size();
  if (num_ids > vocab_size) {
    return absl::InvalidArgumentError(
        absl::StrCat(dir, "'s tokenizer has ids up to ", num_ids - 1,
                     "; the model has tokens 0 to ", vocab_size - 1));
  }
  std::optional<ChatTemplate> chat;
  absl::StatusOr<ChatTemplate> loaded = ChatTemplate::Load(dir);
  if (loaded.ok()) {
    chat = *std::move(loaded);
  } else if (!absl::IsNotFound(loaded.status())) {
    return loaded.status();
  }
  return std::make_unique<TokenizerCodec>(std::move(tokenizer),
                                          std::move(chat));
}

}  // namespace strata
