// The text of an answer as a client sees it: tokens to text, up to the first
// stop string.
//
// Text that may yet turn out to begin a stop string is held back, so a client
// never sees any part of one, however tokens cut it.

#ifndef SERVING_API_ANSWER_TEXT_H_
#define SERVING_API_ANSWER_TEXT_H_

#include <cstdint>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "serving/api/text_codec.h"

namespace strata {

class AnswerText {
 public:
  // `stop` strings are not empty. An answer may hold several; the first in the
  // text counts.
  AnswerText(std::unique_ptr<TokenText> text, std::vector<std::string> stop)
      : text_(std::move(text)), stop_(std::move(stop)) {}

  // Text that is certain with this token. Nothing once stopped.
  std::string Push(int32_t token) { return Add(text_->Push(token)); }

  // Ends the answer: the rest.
  std::string Finish();

  // Whether a stop string was met, in Push or in Finish.
  bool stopped() const { return stopped_; }

 private:
  std::string Add(const std::string& more);

  std::unique_ptr<TokenText> text_;
  const std::vector<std::string> stop_;
  std::string held_;  // Not given out yet.
  bool stopped_ = false;
};

}  // namespace strata

#endif  // SERVING_API_ANSWER_TEXT_H_
