// How a model reads and writes text: by the tokenizer in its folder, or as
// bytes.
//
//   prompt --Encode--> ids --model--> id --Push--> text, never half a character

#ifndef TOOLS_STRATA_MODEL_TEXT_H_
#define TOOLS_STRATA_MODEL_TEXT_H_

#include <cstdint>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "core/model/config.pb.h"
#include "core/tokenizer/model_tokenizer.h"
#include "core/tokenizer/tokenizer.h"
#include "core/tokenizer/utf8_stream.h"

namespace strata {

class ModelText {
 public:
  // Of the model in `folder`.
  //
  // Returns INVALID_ARGUMENT if it has neither a tokenizer nor the vocabulary
  // of bytes, and the errors of ModelTokenizer::Load.
  static absl::StatusOr<ModelText> Load(const std::string& folder,
                                        const ModelConfig& config);

  // The text behind what a text begins with.
  //
  // Returns INVALID_ARGUMENT if there are no ids, as of no text where nothing
  // marks its beginning.
  absl::StatusOr<std::vector<int32_t>> Encode(const std::string& prompt) const;

  // The user's message, after the system's if there is one, as the chat
  // template in the folder has it.
  //
  // Returns NOT_FOUND if the model has no chat template, and the errors of
  // ChatTemplate.
  absl::StatusOr<std::vector<int32_t>> EncodeChat(
      const std::string& message, const std::string& system) const;

  // Whether text ends before this id.
  bool EndsText(int32_t id) const;

  // One of the ids that end text, or -1.
  int32_t end_token() const;

  // Begins a text after `prompt`, whose own is not given again.
  void Begin(absl::Span<const int32_t> prompt);
  // The text that is complete with this id.
  std::string Push(int32_t id);
  // What was held back.
  std::string Finish();

 private:
  explicit ModelText(std::string folder) : folder_(std::move(folder)) {}

  std::string folder_;
  std::unique_ptr<ModelTokenizer> tokenizer_;  // Null: tokens are bytes.
  std::unique_ptr<TextStream> stream_;         // Of the text that was begun.
  Utf8Stream bytes_;
};

}  // namespace strata

#endif  // TOOLS_STRATA_MODEL_TEXT_H_
