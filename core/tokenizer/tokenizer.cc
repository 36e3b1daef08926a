#include "core/tokenizer/tokenizer.h"

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <mutex>
#include <string>
#include <system_error>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "core/base/files.h"
#include "core/base/status_macros.h"
#include "core/tokenizer/added_tokens.h"
#include "core/tokenizer/bpe.h"
#include "core/tokenizer/json_node.h"
#include "core/tokenizer/unicode.h"
#include "core/tokenizer/utf8_stream.h"
#include "nlohmann/json.hpp"

namespace strata {

// As many as threads have encoded at a time.
struct Tokenizer::ScratchPool {
  std::unique_ptr<Bpe::Scratch> Take() {
    const std::lock_guard<std::mutex> lock(mutex);
    if (free.empty()) return std::make_unique<Bpe::Scratch>();
    std::unique_ptr<Bpe::Scratch> scratch = std::move(free.back());
    free.pop_back();
    return scratch;
  }

  void Return(std::unique_ptr<Bpe::Scratch> scratch) {
    const std::lock_guard<std::mutex> lock(mutex);
    free.push_back(std::move(scratch));
  }

  std::mutex mutex;
  std::vector<std::unique_ptr<Bpe::Scratch>> free;
};

Tokenizer::Tokenizer() : scratch_(std::make_unique<ScratchPool>()) {}
Tokenizer::Tokenizer(Tokenizer&&) noexcept = default;
Tokenizer& Tokenizer::operator=(Tokenizer&&) noexcept = default;
Tokenizer::~Tokenizer() = default;

absl::StatusOr<Tokenizer> Tokenizer::Load(const std::string& path) {
  std::error_code error;
  const std::string file = std::filesystem::is_directory(path, error)
                               ? absl::StrCat(path, "/tokenizer.json")
                               : path;
  ASSIGN_OR_RETURN(const std::string json, ReadFile(file));
  absl::StatusOr<Tokenizer> tokenizer = Parse(json);
  if (tokenizer.ok()) return tokenizer;
  return absl::Status(tokenizer.status().code(),
                      absl::StrCat(file, ": ", tokenizer.status().message()));
}

absl::StatusOr<Tokenizer> Tokenizer::Parse(absl::string_view json) {
  ASSIGN_OR_RETURN(const nlohmann::json parsed, ParseJsonFile(json));
  const JsonNode file(parsed);
  if (!parsed.is_object()) {
    return file.Error(
        absl::StrCat("is ", parsed.type_name(), "; want an object"));
  }
  Tokenizer tokenizer;
  if (file.Has("normalizer")) {
    ASSIGN_OR_RETURN(const JsonNode node, file.Object("normalizer"));
    ASSIGN_OR_RETURN(tokenizer.normalizer_, Normalizer::Parse(node));
  }
  if (file.Has("pre_tokenizer")) {
    ASSIGN_OR_RETURN(const JsonNode node, file.Object("pre_tokenizer"));
    ASSIGN_OR_RETURN(tokenizer.pre_tokenizer_, PreTokenizer::Parse(node));
  }
  ASSIGN_OR_RETURN(const JsonNode model, file.Object("model"));
  ASSIGN_OR_RETURN(tokenizer.model_,
                   Bpe::Parse(model, tokenizer.pre_tokenizer_.is_byte_level()));
  ASSIGN_OR_RETURN(tokenizer.added_tokens_,
                   AddedTokens::Parse(file, tokenizer.normalizer_));
  if (file.Has("post_processor")) {
    ASSIGN_OR_RETURN(const JsonNode node, file.Object("post_processor"));
    ASSIGN_OR_RETURN(tokenizer.post_processor_, PostProcessor::Parse(node));
  }
  if (file.Has("decoder")) {
    ASSIGN_OR_RETURN(const JsonNode node, file.Object("decoder"));
    ASSIGN_OR_RETURN(tokenizer.decoder_, TokenDecoder::Parse(node));
  }
  RETURN_IF_ERROR(tokenizer.CheckAddedTokens());
  RETURN_IF_ERROR(tokenizer.CheckFrame());
  tokenizer.vocab_size_ = tokenizer.model_.id_limit();
  for (const AddedToken& token : tokenizer.added_tokens_.tokens()) {
    tokenizer.vocab_size_ = std::max(tokenizer.vocab_size_, token.id + 1);
  }
  return tokenizer;
}

absl::Status Tokenizer::CheckAddedTokens() const {
  for (const AddedToken& token : added_tokens_.tokens()) {
    const int32_t id = model_.Find(token.content);
    if (id != Bpe::kNoId && id != token.id) {
      return absl::InvalidArgumentError(
          absl::StrCat("added_tokens: \"", token.content, "\" has id ",
                       token.id, ", and ", id, " in the vocabulary"));
    }
    const std::string* const other = model_.TokenOf(token.id);
    if (other != nullptr && *other != token.content) {
      return absl::InvalidArgumentError(absl::StrCat(
          "added_tokens: \"", token.content, "\" has id ", token.id,
          ", which is that of \"", *other, "\" in the vocabulary"));
    }
  }
  return absl::OkStatus();
}

absl::Status Tokenizer::CheckFrame() const {
  for (const auto* ids :
       {&post_processor_.before(), &post_processor_.after()}) {
    for (const int32_t id : *ids) {
      if (TokenOf(id) != nullptr) continue;
      return absl::InvalidArgumentError(
          absl::StrCat("post_processor adds id ", id, ", which no token has"));
    }
  }
  return absl::OkStatus();
}

std::vector<int32_t> Tokenizer::Encode(absl::string_view text,
                                       const EncodeOptions& options) const {
  std::string valid;
  if (FindInvalidUtf8(text) != absl::string_view::npos) {
    valid = ToUtf8({text.data(), text.size()});
    text = valid;
  }
  std::vector<int32_t> ids;
  if (options.add_special_tokens) ids = post_processor_.before();
  std::unique_ptr<Bpe::Scratch> scratch = scratch_->Take();
  for (const AddedTokens::Part& part : added_tokens_.Split(
           text, /*normalized=*/false, options.parse_special_tokens)) {
    if (part.token != nullptr) {
      ids.push_back(part.token->id);
    } else {
      EncodePart(part.text, part.text.data() == text.data(), options, *scratch,
                 ids);
    }
  }
  scratch_->Return(std::move(scratch));
  if (options.add_special_tokens) {
    ids.insert(ids.end(), post_processor_.after().begin(),
               post_processor_.after().end());
  }
  return ids;
}

void Tokenizer::EncodePart(absl::string_view text, bool at_start,
                           const EncodeOptions& options, Bpe::Scratch& scratch,
                           std::vector<int32_t>& ids) const {
  std::string normal;
  if (!normalizer_.changes_nothing()) {
    normal = normalizer_.Normalize(text);
    text = normal;
  }
  for (const AddedTokens::Part& part : added_tokens_.Split(
           text, /*normalized=*/true, options.parse_special_tokens)) {
    if (part.token != nullptr) {
      ids.push_back(part.token->id);
      continue;
    }
    const Pieces pieces = pre_tokenizer_.Split(
        std::string(part.text), at_start && part.text.data() == text.data());
    for (size_t i = 0; i < pieces.spans.size(); ++i) {
      model_.Encode(pieces.piece(i), scratch, ids);
    }
  }
}

absl::StatusOr<std::string> Tokenizer::Decode(absl::Span<const int32_t> ids,
                                              bool skip_special_tokens) const {
  TextStream stream(*this, skip_special_tokens);
  std::string text;
  for (size_t i = 0; i < ids.size(); ++i) {
    if (TokenOf(ids[i]) == nullptr) {
      return absl::InvalidArgumentError(absl::StrCat(
          "id ", ids[i], " at position ", i,
          " is that of no token; there are ids up to ", vocab_size_ - 1));
    }
    text += stream.Push(ids[i]);
  }
  return text += stream.Finish();
}

int32_t Tokenizer::IdOf(absl::string_view token) const {
  const AddedToken* const added = added_tokens_.Find(token);
  return added != nullptr ? added->id : model_.Find(token);
}

const std::string* Tokenizer::TokenOf(int32_t id) const {
  const AddedToken* const added = added_tokens_.Find(id);
  return added != nullptr ? &added->content : model_.TokenOf(id);
}

bool Tokenizer::IsSpecial(int32_t id) const {
  const AddedToken* const added = added_tokens_.Find(id);
  return added != nullptr && added->special;
}

std::string TextStream::Push(int32_t id) {
  const std::string* const token = tokenizer_.TokenOf(id);
  if (token == nullptr || (skip_special_tokens_ && tokenizer_.IsSpecial(id))) {
    return "";
  }
  return chain_.Push(*token);
}

void TextStream::Skip(absl::Span<const int32_t> ids) {
  for (const int32_t id : ids) Push(id);
  chain_.Finish();
}

}  // namespace strata
