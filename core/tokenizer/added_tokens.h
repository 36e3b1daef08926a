// Tokens that are found in text as they are, before it is split and merged:
// the "added_tokens" of tokenizer.json.
//
//   "a<|eot|>b"   ->   "a" | <|eot|> | "b"
//
// Of occurrences the leftmost counts, of those that begin together the longest.

#ifndef CORE_TOKENIZER_ADDED_TOKENS_H_
#define CORE_TOKENIZER_ADDED_TOKENS_H_

#include <array>
#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "core/tokenizer/json_node.h"
#include "core/tokenizer/normalizer.h"

namespace strata {

struct AddedToken {
  int32_t id = 0;
  std::string content;
  bool single_word = false;  // Not where letters adjoin it.
  bool lstrip = false;       // Takes the white space before it along.
  bool rstrip = false;       // And that behind it.
  bool normalized = true;    // Is looked for in normalised text.
  bool special = false;      // Is left out of text that people read.
};

class AddedTokens {
 public:
  // A part of a text: a token, or the text in between.
  struct Part {
    absl::string_view text;
    const AddedToken* token = nullptr;  // Null for text.
  };

  AddedTokens() = default;

  // Reads "added_tokens" of the file; none if there is no such field. Contents
  // have at most 1 KiB, as a text takes as many steps for each byte at worst.
  static absl::StatusOr<AddedTokens> Parse(const JsonNode& file,
                                           const Normalizer& normalizer);

  // Cuts the text at those tokens that are looked for in raw text, or at those
  // looked for in normalised text. With `with_special` false, special ones stay
  // text.
  std::vector<Part> Split(absl::string_view text, bool normalized,
                          bool with_special) const;

  // Null if it is none of these.
  const AddedToken* Find(int32_t id) const;
  const AddedToken* Find(absl::string_view content) const;

  const std::vector<AddedToken>& tokens() const { return tokens_; }

 private:
  // The words of a set of tokens, letter by letter.
  class Trie {
   public:
    Trie() { starts_.fill(false); }
    void Add(absl::string_view word, int32_t token);
    // The longest word that begins at `pos`: its token, and where it ends; -1
    // if there is none.
    int32_t Longest(absl::string_view text, size_t pos, size_t& end) const;
    bool Starts(char byte) const {
      return starts_[static_cast<unsigned char>(byte)];
    }

   private:
    absl::flat_hash_map<uint64_t, uint32_t> next_;  // By node and byte.
    std::vector<int32_t> token_ = {-1};             // By node.
    std::array<bool, 256> starts_;
  };

  absl::Status Add(const JsonNode& json);

  std::vector<AddedToken> tokens_;
  absl::flat_hash_map<int32_t, size_t> by_id_;
  absl::flat_hash_map<std::string, size_t> by_content_;
  Trie raw_;
  Trie normalized_;
};

}  // namespace strata

#endif  // CORE_TOKENIZER_ADDED_TOKENS_H_
