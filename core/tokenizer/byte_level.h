// The byte-level alphabet of GPT-2: a visible character for each byte, so that
// a vocabulary of bytes can be written down as text.
//
//   bytes  20 68 C3 A9      text   Ġ h Ã ©
//
// 0x21-7E, A1-AC and AE-FF stand for themselves; the other 68 bytes, in order,
// are U+0100 and on.

#ifndef CORE_TOKENIZER_BYTE_LEVEL_H_
#define CORE_TOKENIZER_BYTE_LEVEL_H_

#include <string>

#include "absl/strings/string_view.h"

namespace strata {

// The character of a byte.
char32_t ByteLevelChar(unsigned char byte);

// The byte of a character, or -1 if it is none of the alphabet.
int ByteLevelByte(char32_t c);

// Bytes as characters of the alphabet.
std::string ToByteLevel(absl::string_view bytes);

// The bytes that `text`, which is valid UTF-8, stands for; false if it has a
// character that is not of the alphabet.
bool FromByteLevel(absl::string_view text, std::string& bytes);

}  // namespace strata

#endif  // CORE_TOKENIZER_BYTE_LEVEL_H_
