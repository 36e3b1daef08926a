// What a Split pre-tokenizer looks for: occurrences in a text, from left to
// right, none inside another.
//
//   "I'm 42"  LLAMA3   I | 'm | ␣ | 42        every character is in a match
//   "a1b22"   \p{N}    a 1 b 2 2              some are in none
//
// Regular expressions are not run by an engine: each known one is a function
// that walks the text once, so no text takes more than linear time. Matches are
// those of Oniguruma, which the Rust implementation uses: the first alternative
// that fits, as long as it can be.

#ifndef CORE_TOKENIZER_SPLIT_PATTERN_H_
#define CORE_TOKENIZER_SPLIT_PATTERN_H_

#include <cstddef>
#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace strata {

class SplitPattern {
 public:
  struct Match {
    size_t begin = absl::string_view::npos;  // npos: there is none.
    size_t end = 0;                          // After begin.
  };

  virtual ~SplitPattern() = default;

  // The first match that begins at `from` or later. The text is valid UTF-8,
  // and `from` is where the match before ended, or 0.
  virtual Match Find(absl::string_view text, size_t from) const = 0;
};

// The pattern of a regular expression: one of those below, letter by letter, or
// a run of a set of characters: X+, X, X{1,n}, Y?X+, X+$, where X and Y are a
// class ([...], \p{L}, \s, \d) or a character.
//
// Returns UNIMPLEMENTED, with the list of the known, for any other.
absl::StatusOr<std::unique_ptr<SplitPattern>> RegexPattern(
    absl::string_view regex);

// The occurrences of a text; of the empty text there are none.
std::unique_ptr<SplitPattern> TextPattern(std::string text);

// Of GPT-2, which a ByteLevel pre-tokenizer with use_regex has.
std::unique_ptr<SplitPattern> Gpt2Pattern();

// Digits one by one (\p{N} each) or in runs.
std::unique_ptr<SplitPattern> DigitsPattern(bool one_by_one);

// The expressions that are known by their text.
extern const char kGpt2Regex[];
extern const char kLlama3Regex[];
extern const char kQwen2Regex[];
extern const char kDeepSeekV3Regex[];  // The third of its three.

}  // namespace strata

#endif  // CORE_TOKENIZER_SPLIT_PATTERN_H_
