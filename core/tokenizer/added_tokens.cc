#include "core/tokenizer/added_tokens.h"

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "core/base/status_macros.h"
#include "core/tokenizer/bpe.h"
#include "core/tokenizer/json_node.h"
#include "core/tokenizer/normalizer.h"
#include "core/tokenizer/unicode.h"

namespace strata {
namespace {

constexpr size_t kMaxContentBytes = 1024;

bool EndsWithWord(absl::string_view text) {
  if (text.empty()) return false;
  const size_t last = PreviousBegin(text, text.size());
  return ClassesOf(DecodeAt(text, last).c) & kWord;
}

bool BeginsWithWord(absl::string_view text) {
  return !text.empty() && (ClassesOf(DecodeAt(text, 0).c) & kWord);
}

}  // namespace

void AddedTokens::Trie::Add(absl::string_view word, int32_t token) {
  uint32_t node = 0;
  for (const char byte : word) {
    const uint64_t key = uint64_t{node} << 8 | static_cast<unsigned char>(byte);
    const auto [it, is_new] =
        next_.emplace(key, static_cast<uint32_t>(token_.size()));
    if (is_new) token_.push_back(-1);
    node = it->second;
  }
  token_[node] = token;
  starts_[static_cast<unsigned char>(word[0])] = true;
}

int32_t AddedTokens::Trie::Longest(absl::string_view text, size_t pos,
                                   size_t& end) const {
  uint32_t node = 0;
  int32_t token = -1;
  for (size_t i = pos; i < text.size(); ++i) {
    const auto it =
        next_.find(uint64_t{node} << 8 | static_cast<unsigned char>(text[i]));
    if (it == next_.end()) break;
    node = it->second;
    if (token_[node] < 0) continue;
    token = token_[node];
    end = i + 1;
  }
  return token;
}

absl::Status AddedTokens::Add(const JsonNode& json) {
  AddedToken token;
  ASSIGN_OR_RETURN(const int64_t id, json.Integer("id"));
  if (id < 0 || id >= Bpe::kMaxIds) {
    return json.Error(
        absl::StrCat("id is ", id, "; want 0 to ", Bpe::kMaxIds - 1));
  }
  token.id = static_cast<int32_t>(id);
  ASSIGN_OR_RETURN(token.content, json.String("content"));
  if (token.content.empty() || token.content.size() > kMaxContentBytes) {
    return json.Error(absl::StrCat("content has ", token.content.size(),
                                   " bytes; want 1 to ", kMaxContentBytes));
  }
  ASSIGN_OR_RETURN(token.single_word, json.BoolOr("single_word", false));
  ASSIGN_OR_RETURN(token.lstrip, json.BoolOr("lstrip", false));
  ASSIGN_OR_RETURN(token.rstrip, json.BoolOr("rstrip", false));
  ASSIGN_OR_RETURN(token.special, json.BoolOr("special", false));
  ASSIGN_OR_RETURN(token.normalized, json.BoolOr("normalized", !token.special));
  if (!by_id_.emplace(token.id, tokens_.size()).second) {
    return json.Error(absl::StrCat("a token before it has id ", id, " too"));
  }
  if (!by_content_.emplace(token.content, tokens_.size()).second) {
    return json.Error(
        absl::StrCat("a token before it is \"", token.content, "\" too"));
  }
  tokens_.push_back(std::move(token));
  return absl::OkStatus();
}

absl::StatusOr<AddedTokens> AddedTokens::Parse(const JsonNode& file,
                                               const Normalizer& normalizer) {
  AddedTokens added;
  if (!file.Has("added_tokens")) return added;
  ASSIGN_OR_RETURN(const auto items, file.Array("added_tokens"));
  for (const JsonNode& item : items) RETURN_IF_ERROR(added.Add(item));
  for (size_t i = 0; i < added.tokens_.size(); ++i) {
    const AddedToken& token = added.tokens_[i];
    if (!token.normalized) {
      added.raw_.Add(token.content, static_cast<int32_t>(i));
      continue;
    }
    const std::string word = normalizer.Normalize(token.content);
    if (!word.empty()) added.normalized_.Add(word, static_cast<int32_t>(i));
  }
  return added;
}

std::vector<AddedTokens::Part> AddedTokens::Split(absl::string_view text,
                                                  bool normalized,
                                                  bool with_special) const {
  const Trie& trie = normalized ? normalized_ : raw_;
  std::vector<Part> parts;
  size_t done = 0;
  size_t pos = 0;
  while (pos < text.size()) {
    size_t end = 0;
    const int32_t index =
        trie.Starts(text[pos]) ? trie.Longest(text, pos, end) : -1;
    if (index < 0) {
      ++pos;
      continue;
    }
    const AddedToken& token = tokens_[index];
    size_t begin = std::exchange(pos, end);
    if (token.special && !with_special) continue;
    if (token.single_word && (EndsWithWord(text.substr(0, begin)) ||
                              BeginsWithWord(text.substr(end)))) {
      continue;
    }
    while (token.lstrip && begin > done) {
      const size_t last = PreviousBegin(text, begin);
      if (!(ClassesOf(DecodeAt(text, last).c) & kSpace)) break;
      begin = last;
    }
    while (token.rstrip && end < text.size()) {
      const Decoded next = DecodeAt(text, end);
      if (!(ClassesOf(next.c) & kSpace)) break;
      end = next.end;
    }
    if (done < begin) parts.push_back({text.substr(done, begin - done)});
    parts.push_back({text.substr(begin, end - begin), &token});
    done = pos = end;
  }
  if (done < text.size()) parts.push_back({text.substr(done)});
  return parts;
}

const AddedToken* AddedTokens::Find(int32_t id) const {
  const auto it = by_id_.find(id);
  return it == by_id_.end() ? nullptr : &tokens_[it->second];
}

const AddedToken* AddedTokens::Find(absl::string_view content) const {
  const auto it = by_content_.find(content);
  return it == by_content_.end() ? nullptr : &tokens_[it->second];
}

}  // namespace strata
