// From tokens back to text: the "decoder" of tokenizer.json, as a stream.
//
//   ByteFallback, ByteLevel, Fuse, Metaspace, Replace, Sequence, Strip
//
//   tokens  ▁Hi  <0xE2>  <0x82>  <0xAC>  !
//   text     Hi                       €  !
//
// A token gives the text that is complete with it, often none: what is given
// never ends inside a character, and all of it together is what decoding the
// tokens at once gives.

#ifndef CORE_TOKENIZER_DECODER_H_
#define CORE_TOKENIZER_DECODER_H_

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "core/tokenizer/json_node.h"

namespace strata {

// A step of a decoder at work on one stream.
class DecodeStep {
 public:
  using Sink = std::function<void(absl::string_view token)>;

  virtual ~DecodeStep() = default;
  virtual void Push(absl::string_view token, const Sink& sink) = 0;
  // Gives what was held back. More may be pushed, which is no beginning then.
  virtual void Finish(const Sink&) {}
};

class TokenDecoder {
 public:
  // The file has no decoder: tokens are joined by spaces.
  TokenDecoder();

  // Returns UNIMPLEMENTED, with the list of the supported, for another type,
  // and for one that cannot come where it does.
  static absl::StatusOr<TokenDecoder> Parse(const JsonNode& json);

  // The steps for a stream of its own, the first one first.
  std::vector<std::unique_ptr<DecodeStep>> NewSteps() const;

 private:
  using MakeStep = std::function<std::unique_ptr<DecodeStep>()>;

  absl::Status Add(const JsonNode& json, int depth);

  std::vector<MakeStep> steps_;
  bool is_fused_ = false;  // What comes out of the steps is one text.
};

// Pushes tokens through steps.
class DecodeChain {
 public:
  explicit DecodeChain(const TokenDecoder& decoder)
      : steps_(decoder.NewSteps()) {}

  // The text that is complete with this token.
  std::string Push(absl::string_view token);

  // What was held back. What is pushed later begins no character inside it.
  std::string Finish();

 private:
  void PushFrom(size_t step, absl::string_view token, std::string& text);

  std::vector<std::unique_ptr<DecodeStep>> steps_;
};

}  // namespace strata

#endif  // CORE_TOKENIZER_DECODER_H_
