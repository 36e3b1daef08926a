// A set of characters, as a class of a regular expression has it: [a-z\p{N}].

#ifndef CORE_TOKENIZER_CHAR_SET_H_
#define CORE_TOKENIZER_CHAR_SET_H_

#include <array>
#include <cstddef>
#include <optional>
#include <utility>
#include <vector>

#include "absl/strings/string_view.h"
#include "core/tokenizer/unicode.h"

namespace strata {

class CharSet {
 public:
  CharSet() { ascii_.fill(false); }

  bool Contains(char32_t c) const {
    return c < ascii_.size() ? ascii_[c] : ContainsAnew(c);
  }

  // Takes one item off the front of `regex` (valid UTF-8): a class in brackets,
  // \p{L}, \s, \d, a character, one behind a backslash. None if it begins with
  // anything else, or with a class that has what is not known here.
  static std::optional<CharSet> Parse(absl::string_view& regex);

 private:
  bool ContainsAnew(char32_t c) const;
  bool ParseBrackets(absl::string_view& regex);
  void Finish();  // Sorts the ranges and fills ascii_.

  std::array<bool, 128> ascii_;
  CharClasses classes_ = 0;
  std::vector<std::pair<char32_t, char32_t>> ranges_;  // Both ends included.
  bool is_negated_ = false;
};

}  // namespace strata

#endif  // CORE_TOKENIZER_CHAR_SET_H_
