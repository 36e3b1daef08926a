// Characters: what class each one is of, by Unicode 15 as ICU has it, and text
// as a sequence of them.
//
// Everything that takes text takes valid UTF-8 (ToUtf8 of utf8_stream.h makes
// it so) and CHECKs nothing: on other bytes the results are unspecified, but no
// byte outside the text is read.

#ifndef CORE_TOKENIZER_UNICODE_H_
#define CORE_TOKENIZER_UNICODE_H_

#include <cstddef>
#include <cstdint>
#include <string>

#include "absl/strings/string_view.h"

namespace strata {

// A set of classes; each is what a regular expression's \p{...} or \s means.
using CharClasses = uint8_t;
inline constexpr CharClasses kLetter = 1;         // \p{L}
inline constexpr CharClasses kMark = 2;           // \p{M}
inline constexpr CharClasses kNumber = 4;         // \p{N}: digits, Ⅷ, ½
inline constexpr CharClasses kPunctuation = 8;    // \p{P}
inline constexpr CharClasses kSymbol = 16;        // \p{S}
inline constexpr CharClasses kSpace = 32;         // \s: White_Space
inline constexpr CharClasses kDecimalDigit = 64;  // \d: \p{Nd}
inline constexpr CharClasses kWord = 128;         // \w: what an identifier has.

// The classes of a character. Values above U+10FFFF have none.
CharClasses ClassesOf(char32_t c);

// A character and where the next one begins.
struct Decoded {
  char32_t c = 0;
  size_t end = 0;
};

// The character that begins at `pos`, which lies inside the text.
inline Decoded DecodeAt(absl::string_view text, size_t pos) {
  const auto byte = [&](size_t i) -> char32_t {
    return i < text.size() ? static_cast<unsigned char>(text[i]) : 0x80;
  };
  const char32_t b = byte(pos);
  if (b < 0x80) return {b, pos + 1};
  size_t size = b < 0xE0 ? 2 : b < 0xF0 ? 3 : 4;
  char32_t c = b & (0xFF >> (size + 1));
  for (size_t i = 1; i < size; ++i) c = c << 6 | (byte(pos + i) & 0x3F);
  return {c, pos + size < text.size() ? pos + size : text.size()};
}

// Where the character that ends at `end` (not 0) begins.
size_t PreviousBegin(absl::string_view text, size_t end);

void AppendUtf8(char32_t c, std::string& text);

// Where the first byte is that is not of a valid character, or npos.
size_t FindInvalidUtf8(absl::string_view bytes);

// The character's other case, if that is one character.
char32_t ToUpper(char32_t c);
char32_t ToLower(char32_t c);

// Canonical composition and decomposition.
std::string ToNfc(absl::string_view text);
std::string ToNfd(absl::string_view text);

}  // namespace strata

#endif  // CORE_TOKENIZER_UNICODE_H_
