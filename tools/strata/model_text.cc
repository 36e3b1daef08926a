#include "tools/strata/model_text.h"

#include <cstdint>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "absl/types/span.h"
#include "core/base/status_macros.h"
#include "core/tokenizer/chat_template.h"
#include "core/tokenizer/utf8_stream.h"
#include "nlohmann/json.hpp"
#include "training/data/corpus.h"

namespace strata {

absl::StatusOr<ModelText> ModelText::Load(const std::string& folder,
                                          const ModelConfig& config) {
  ModelText text(folder);
  if (HasTokenizer(folder)) {
    ASSIGN_OR_RETURN(ModelTokenizer tokenizer, ModelTokenizer::Load(folder));
    text.tokenizer_ = std::make_unique<ModelTokenizer>(std::move(tokenizer));
  } else if (config.vocab_size() != kByteVocabSize) {
    return absl::InvalidArgumentError(absl::StrCat(
        folder, " has a vocabulary of ", config.vocab_size(), " tokens and no ",
        kTokenizerFile, "; without one, text is read as bytes, which wants ",
        kByteVocabSize, " (--prompt-ids takes token ids)"));
  }
  return text;
}

absl::StatusOr<std::vector<int32_t>> ModelText::Encode(
    const std::string& prompt) const {
  if (tokenizer_ != nullptr) {
    std::vector<int32_t> ids = tokenizer_->EncodePrompt(prompt);
    if (!ids.empty()) return ids;
    return absl::InvalidArgumentError(
        "the prompt is empty, and the model's tokenizer has no token that "
        "begins a text; want a prompt");
  }
  std::vector<int32_t> ids = {kDocumentBoundary};
  for (const char c : prompt) ids.push_back(static_cast<unsigned char>(c));
  return ids;
}

absl::StatusOr<std::vector<int32_t>> ModelText::EncodeChat(
    const std::string& message, const std::string& system) const {
  if (tokenizer_ == nullptr) {
    return absl::NotFoundError(absl::StrCat(
        folder_, " has no ", kTokenizerConfigFile,
        ", and so no chat template; --prompt without --chat continues a text"));
  }
  ASSIGN_OR_RETURN(const ChatTemplate chat, ChatTemplate::Load(folder_));
  nlohmann::ordered_json messages = nlohmann::ordered_json::array();
  if (!system.empty()) {
    messages.push_back({{"role", "system"}, {"content", ToUtf8(system)}});
  }
  messages.push_back({{"role", "user"}, {"content", ToUtf8(message)}});
  ChatOptions options;
  options.now = absl::Now();
  ASSIGN_OR_RETURN(const std::string text, chat.Render(messages, options));
  return tokenizer_->EncodeChat(text);
}

bool ModelText::EndsText(int32_t id) const {
  return tokenizer_ != nullptr ? tokenizer_->EndsText(id)
                               : id == kDocumentBoundary;
}

int32_t ModelText::end_token() const {
  return tokenizer_ != nullptr ? tokenizer_->end_token() : kDocumentBoundary;
}

void ModelText::Begin(absl::Span<const int32_t> prompt) {
  bytes_ = Utf8Stream();
  if (tokenizer_ == nullptr) return;
  stream_ = std::make_unique<TextStream>(tokenizer_->tokenizer());
  stream_->Skip(prompt);
}

std::string ModelText::Push(int32_t id) {
  return stream_ != nullptr ? stream_->Push(id)
                            : bytes_.Push(static_cast<unsigned char>(id));
}

std::string ModelText::Finish() {
  return stream_ != nullptr ? stream_->Finish() : bytes_.Finish();
}

}  // namespace strata
