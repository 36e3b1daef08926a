#include "core/tokenizer/utf8_stream.h"

#include <string>
#include <string_view>
#include <utility>

namespace strata {
namespace {

constexpr char kReplacement[] = "\xEF\xBF\xBD";  // U+FFFD

}  // namespace

std::string Utf8Stream::Push(unsigned char byte) {
  if (num_missing_ > 0) {
    if (byte < low_ || byte > high_) {
      // Not of the character begun; it may begin one itself.
      std::string text = Finish();
      return text += Push(byte);
    }
    pending_ += static_cast<char>(byte);
    low_ = 0x80;
    high_ = 0xBF;
    if (--num_missing_ > 0) return "";
    return std::exchange(pending_, "");
  }

  if (byte < 0x80) return std::string(1, static_cast<char>(byte));
  if (byte < 0xC2 || byte > 0xF4) return kReplacement;
  num_missing_ = byte < 0xE0 ? 1 : byte < 0xF0 ? 2 : 3;
  // Overlong forms, surrogates, and what lies above U+10FFFF.
  if (byte == 0xE0) low_ = 0xA0;
  if (byte == 0xED) high_ = 0x9F;
  if (byte == 0xF0) low_ = 0x90;
  if (byte == 0xF4) high_ = 0x8F;
  pending_ = static_cast<char>(byte);
  return "";
}

std::string Utf8Stream::Finish() {
  const bool cut = num_missing_ > 0;
  *this = Utf8Stream();
  return cut ? kReplacement : "";
}

std::string ToUtf8(std::string_view bytes) {
  Utf8Stream stream;
  std::string text;
  for (const char byte : bytes) {
    text += stream.Push(static_cast<unsigned char>(byte));
  }
  return text + stream.Finish();
}

}  // namespace strata
