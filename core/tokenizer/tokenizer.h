// A tokenizer of Hugging Face's tokenizer.json: text to ids and back.
//
//   text
//     |  added tokens that are looked for in raw text   added_tokens.h
//     |  normalizer                                     normalizer.h
//     |  added tokens looked for in normalised text
//     |  pre-tokenizer: text to pieces                  pre_tokenizer.h
//     |  model: pieces to ids                           bpe.h
//     v  post-processor: ids before and after           post_processor.h
//   ids
//     v  decoder                                        decoder.h
//   text
//
// Ids are those of the Rust implementation (docs/tokenizer.md says where not).
// Encoding takes O(n log n) steps for n bytes, whatever they are.

#ifndef CORE_TOKENIZER_TOKENIZER_H_
#define CORE_TOKENIZER_TOKENIZER_H_

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "core/tokenizer/added_tokens.h"
#include "core/tokenizer/bpe.h"
#include "core/tokenizer/decoder.h"
#include "core/tokenizer/normalizer.h"
#include "core/tokenizer/post_processor.h"
#include "core/tokenizer/pre_tokenizer.h"

namespace strata {

struct EncodeOptions {
  // Frames the text as the post-processor says.
  bool add_special_tokens = true;
  // Finds special tokens in the text. False for text of users, who could else
  // end their turn and speak as the system.
  bool parse_special_tokens = true;
};

// Const methods may be called from several threads.
class Tokenizer {
 public:
  // Reads a file, or that of the name tokenizer.json in a folder.
  //
  // Returns the system's error if it cannot be read, INVALID_ARGUMENT if it is
  // no tokenizer, UNIMPLEMENTED, with the list of the supported, if a part of
  // it is of a type that is not known here. All name the path and the place.
  static absl::StatusOr<Tokenizer> Load(const std::string& path);

  // Reads the content of such a file.
  static absl::StatusOr<Tokenizer> Parse(absl::string_view json);

  Tokenizer(Tokenizer&&) noexcept;
  Tokenizer& operator=(Tokenizer&&) noexcept;
  ~Tokenizer();

  // Bytes that are not UTF-8 count as U+FFFD, one for each longest run of bytes
  // that begins a character: what the Rust implementation gets from callers
  // that read bytes.
  std::vector<int32_t> Encode(absl::string_view text,
                              const EncodeOptions& options = {}) const;

  // The text of ids. Valid UTF-8; what is not becomes U+FFFD.
  //
  // Returns INVALID_ARGUMENT if an id is that of no token.
  absl::StatusOr<std::string> Decode(absl::Span<const int32_t> ids,
                                     bool skip_special_tokens = false) const;

  // The id of a token as the file spells it, or Bpe::kNoId.
  int32_t IdOf(absl::string_view token) const;

  // How the file spells a token, or null if the id is that of none.
  const std::string* TokenOf(int32_t id) const;

  bool IsSpecial(int32_t id) const;

  // One more than the largest id.
  int32_t vocab_size() const { return vocab_size_; }

  const Bpe& model() const { return model_; }
  const AddedTokens& added_tokens() const { return added_tokens_; }
  const TokenDecoder& decoder() const { return decoder_; }

 private:
  struct ScratchPool;

  Tokenizer();

  absl::Status CheckAddedTokens() const;
  absl::Status CheckFrame() const;  // What the post-processor adds.
  void EncodePart(absl::string_view text, bool at_start,
                  const EncodeOptions& options, Bpe::Scratch& scratch,
                  std::vector<int32_t>& ids) const;

  AddedTokens added_tokens_;
  Normalizer normalizer_;
  PreTokenizer pre_tokenizer_;
  Bpe model_;
  PostProcessor post_processor_;
  TokenDecoder decoder_;
  int32_t vocab_size_ = 0;
  std::unique_ptr<ScratchPool> scratch_;
};

// Text from ids as they come: what Push gives never ends inside a character.
class TextStream {
 public:
  // The tokenizer must outlive it.
  explicit TextStream(const Tokenizer& tokenizer,
                      bool skip_special_tokens = true)
      : tokenizer_(tokenizer),
        skip_special_tokens_(skip_special_tokens),
        chain_(tokenizer.decoder()) {}

  // The text that is complete with this id. An id that is that of no token, as
  // a model's padded rows have, gives none.
  std::string Push(int32_t id);

  // Takes the ids of a text that is not given, as those of a prompt: what comes
  // is then no beginning, where a decoder would cut a space off.
  void Skip(absl::Span<const int32_t> ids);

  // Ends the stream: what was held back.
  std::string Finish() { return chain_.Finish(); }

 private:
  const Tokenizer& tokenizer_;
  const bool skip_special_tokens_;
  DecodeChain chain_;
};

}  // namespace strata

#endif  // CORE_TOKENIZER_TOKENIZER_H_
