// Between a client's text and a model's tokens: a tokenizer.json with its chat
// template, or, for a model whose tokens are bytes, the bytes.

#ifndef SERVING_API_TEXT_CODEC_H_
#define SERVING_API_TEXT_CODEC_H_

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "nlohmann/json.hpp"

namespace strata {

// Text of one answer, token by token.
class TokenText {
 public:
  virtual ~TokenText() = default;
  // The text that is complete with this token; never ends inside a character.
  virtual std::string Push(int32_t token) = 0;
  // What was held back.
  virtual std::string Finish() = 0;
};

// Const methods may be called from several threads.
class TextCodec {
 public:
  virtual ~TextCodec() = default;

  // The tokens of a text to be continued, with what the model expects before
  // it. Special tokens that the text spells are text.
  virtual std::vector<int32_t> Encode(absl::string_view text) const = 0;

  // The tokens of a conversation after which the assistant is to speak.
  //
  // Returns FAILED_PRECONDITION if the model has no chat template, and
  // INVALID_ARGUMENT if the template refuses the messages.
  virtual absl::StatusOr<std::vector<int32_t>> EncodeChat(
      const nlohmann::ordered_json& messages) const = 0;

  // The text of what follows `prompt`, which is not given.
  virtual std::unique_ptr<TokenText> NewText(
      absl::Span<const int32_t> prompt) const = 0;

  // One token as it would be shown; U+FFFD where it is no whole character.
  virtual std::string Show(int32_t token) const = 0;

  // The bytes that a token adds to a text which it does not begin; "" if it is
  // a special one, or none.
  virtual std::string Bytes(int32_t token) const = 0;

  // Tokens that end an answer.
  const std::vector<int32_t>& stop_ids() const { return stop_ids_; }

 protected:
  std::vector<int32_t> stop_ids_;
};

// The codec of the model in `dir`: of its tokenizer.json, or, if there is none
// and the vocabulary has 256 tokens, of bytes (a text begins after byte 0, the
// boundary of documents, and ends at one).
//
// Returns NOT_FOUND if there is no tokenizer and the vocabulary is no bytes';
// INVALID_ARGUMENT if the tokenizer has tokens that the model has not; errors
// of ModelTokenizer::Load and ChatTemplate::Load.
absl::StatusOr<std::unique_ptr<TextCodec>> LoadTextCodec(const std::string& dir,
                                                         int64_t vocab_size);

}  // namespace strata

#endif  // SERVING_API_TEXT_CODEC_H_
