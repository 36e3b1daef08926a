#include "serving/api/text_codec.h"

#include <algorithm>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "core/base/files.h"
#include "core/base/status_macros.h"
#include "core/tokenizer/chat_template.h"
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

  std::unique_ptr<TokenText> NewText() const override {
    return std::make_unique<ByteText>();
  }

  std::string Show(int32_t token) const override {
    return ToUtf8(std::string(1, static_cast<char>(token)));
  }
};

// --- tokenizer.json ---

class TokenizerText : public TokenText {
 public:
  explicit TokenizerText(const Tokenizer& tokenizer) : stream_(tokenizer) {}
  std::string Push(int32_t token) override { return stream_.Push(token); }
  std::string Finish() override { return stream_.Finish(); }

 private:
  TextStream stream_;
};

class TokenizerCodec : public TextCodec {
 public:
  TokenizerCodec(Tokenizer tokenizer, std::optional<ChatTemplate> chat,
                 std::vector<int32_t> stop_ids)
      : tokenizer_(std::move(tokenizer)), chat_(std::move(chat)) {
    stop_ids_ = std::move(stop_ids);
  }

  std::vector<int32_t> Encode(absl::string_view text) const override {
    EncodeOptions options;
    options.parse_special_tokens = false;
    return tokenizer_.Encode(text, options);
  }

  absl::StatusOr<std::vector<int32_t>> EncodeChat(
      const nlohmann::ordered_json& messages) const override {
    if (!chat_.has_value()) {
      return absl::FailedPreconditionError(
          "the model has no chat template; use /v1/completions");
    }
    ASSIGN_OR_RETURN(const std::string text, chat_->Render(messages));
    EncodeOptions options;
    options.add_special_tokens = false;  // The template writes them.
    return tokenizer_.Encode(text, options);
  }

  std::unique_ptr<TokenText> NewText() const override {
    return std::make_unique<TokenizerText>(tokenizer_);
  }

  std::string Show(int32_t token) const override {
    const absl::StatusOr<std::string> text = tokenizer_.Decode({token});
    return text.ok() ? *text : std::string();
  }

 private:
  Tokenizer tokenizer_;
  std::optional<ChatTemplate> chat_;
};

// Adds "eos_token_id" of a JSON file, a number or a list of them, if it is
// there; a file that is not there or says nothing adds none.
void AddStopIds(const std::string& path, std::vector<int32_t>& ids) {
  const absl::StatusOr<std::string> text = ReadFile(path);
  if (!text.ok()) return;
  const auto json = nlohmann::json::parse(*text, nullptr, false);
  if (!json.is_object() || !json.contains("eos_token_id")) return;
  const nlohmann::json& eos = json["eos_token_id"];
  for (const nlohmann::json& id :
       eos.is_array() ? eos : nlohmann::json::array({eos})) {
    if (id.is_number_integer()) ids.push_back(id.get<int32_t>());
  }
}

}  // namespace

absl::StatusOr<std::unique_ptr<TextCodec>> LoadTextCodec(const std::string& dir,
                                                         int64_t vocab_size) {
  absl::StatusOr<Tokenizer> tokenizer = Tokenizer::Load(dir);
  if (absl::IsNotFound(tokenizer.status())) {
    if (vocab_size == kByteVocabSize) return std::make_unique<ByteCodec>();
    return absl::NotFoundError(absl::StrCat(
        dir, " has no tokenizer.json, and its vocabulary of ", vocab_size,
        " tokens is not the ", kByteVocabSize, " bytes"));
  }
  RETURN_IF_ERROR(tokenizer.status());
  if (tokenizer->vocab_size() > vocab_size) {
    return absl::InvalidArgumentError(absl::StrCat(
        dir, "'s tokenizer has ids up to ", tokenizer->vocab_size() - 1,
        "; the model has tokens 0 to ", vocab_size - 1));
  }
  std::optional<ChatTemplate> chat;
  absl::StatusOr<ChatTemplate> loaded = ChatTemplate::Load(dir);
  if (loaded.ok()) {
    chat = *std::move(loaded);
  } else if (!absl::IsNotFound(loaded.status())) {
    return loaded.status();
  }
  std::vector<int32_t> stop_ids;
  AddStopIds(absl::StrCat(dir, "/generation_config.json"), stop_ids);
  AddStopIds(absl::StrCat(dir, "/config.json"), stop_ids);
  if (chat.has_value()) {
    for (const auto& [name, token] : chat->special_tokens()) {
      const int32_t id = tokenizer->IdOf(token);
      if (name == "eos_token" && id >= 0) stop_ids.push_back(id);
    }
  }
  std::sort(stop_ids.begin(), stop_ids.end());
  stop_ids.erase(std::unique(stop_ids.begin(), stop_ids.end()), stop_ids.end());
  return std::make_unique<TokenizerCodec>(*std::move(tokenizer),
                                          std::move(chat), std::move(stop_ids));
}

}  // namespace strata
