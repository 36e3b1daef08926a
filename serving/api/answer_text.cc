#include "serving/api/answer_text.h"

#include <algorithm>
#include <cstddef>
#include <string>

#include "absl/strings/string_view.h"

namespace strata {

std::string AnswerText::Add(const std::string& more) {
  if (stopped_) return "";
  held_ += more;
  size_t first = std::string::npos;
  for (const std::string& stop : stop_) {
    first = std::min(first, held_.find(stop));
  }
  if (first != std::string::npos) {
    stopped_ = true;
    std::string text = held_.substr(0, first);
    held_.clear();
    return text;
  }
  // The longest end of held_ that begins a stop string stays.
  size_t keep = 0;
  const absl::string_view held = held_;
  for (const std::string& stop : stop_) {
    for (size_t n = std::min(stop.size() - 1, held.size()); n > keep; --n) {
      if (held.substr(held.size() - n) ==
          absl::string_view(stop).substr(0, n)) {
        keep = n;
      }
    }
  }
  std::string text = held_.substr(0, held_.size() - keep);
  held_.erase(0, text.size());
  return text;
}

std::string AnswerText::Finish() {
  std::string text = Add(text_->Finish());
  text += held_;
  held_.clear();
  return text;
}

}  // namespace strata
