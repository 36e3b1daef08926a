#include "core/tokenizer/byte_level.h"

#include <array>
#include <cstddef>
#include <string>

#include "absl/strings/string_view.h"
#include "core/tokenizer/unicode.h"

namespace strata {
namespace {

struct Alphabet {
  std::array<char32_t, 256> chars;
  std::array<int, 512> bytes;  // -1: no byte's.
};

Alphabet MakeAlphabet() {
  Alphabet alphabet;
  alphabet.bytes.fill(-1);
  char32_t next = 0x100;
  for (int byte = 0; byte < 256; ++byte) {
    const bool is_visible = (byte >= 0x21 && byte <= 0x7E) ||
                            (byte >= 0xA1 && byte <= 0xAC) || byte >= 0xAE;
    alphabet.chars[byte] = is_visible ? byte : next++;
    alphabet.bytes[alphabet.chars[byte]] = byte;
  }
  return alphabet;
}

const Alphabet& GetAlphabet() {
  static const Alphabet alphabet = MakeAlphabet();
  return alphabet;
}

}  // namespace

char32_t ByteLevelChar(unsigned char byte) { return GetAlphabet().chars[byte]; }

int ByteLevelByte(char32_t c) {
  return c < GetAlphabet().bytes.size() ? GetAlphabet().bytes[c] : -1;
}

std::string ToByteLevel(absl::string_view bytes) {
  std::string text;
  text.reserve(bytes.size());
  for (const char byte : bytes) {
    AppendUtf8(ByteLevelChar(static_cast<unsigned char>(byte)), text);
  }
  return text;
}

bool FromByteLevel(absl::string_view text, std::string& bytes) {
  bytes.clear();
  for (size_t pos = 0; pos < text.size();) {
    const Decoded decoded = DecodeAt(text, pos);
    const int byte = ByteLevelByte(decoded.c);
    if (byte < 0) return false;
    bytes += static_cast<char>(byte);
    pos = decoded.end;
  }
  return true;
}

}  // namespace strata
