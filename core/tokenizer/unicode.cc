#include "core/tokenizer/unicode.h"

#include <cstddef>
#include <cstdint>
#include <string>

#include "absl/strings/string_view.h"
#include "core/base/check.h"
#include "unicode/bytestream.h"
#include "unicode/normalizer2.h"
#include "unicode/uchar.h"

namespace strata {
namespace {

constexpr char32_t kNumCodePoints = 0x110000;

CharClasses Classify(char32_t c) {
  const uint32_t category = U_MASK(u_charType(static_cast<UChar32>(c)));
  CharClasses classes = 0;
  if (category & U_GC_L_MASK) classes |= kLetter;
  if (category & U_GC_M_MASK) classes |= kMark;
  if (category & U_GC_N_MASK) classes |= kNumber;
  if (category & U_GC_P_MASK) classes |= kPunctuation;
  if (category & U_GC_S_MASK) classes |= kSymbol;
  if (u_isUWhiteSpace(static_cast<UChar32>(c))) classes |= kSpace;
  if (category & U_GC_ND_MASK) classes |= kDecimalDigit;
  if ((category & (U_GC_M_MASK | U_GC_ND_MASK | U_GC_PC_MASK)) ||
      u_hasBinaryProperty(static_cast<UChar32>(c), UCHAR_ALPHABETIC) ||
      u_hasBinaryProperty(static_cast<UChar32>(c), UCHAR_JOIN_CONTROL)) {
    classes |= kWord;
  }
  return classes;
}

// A megabyte, of which a text touches few pages: one load per character, where
// ICU's own lookup is a call and three.
const CharClasses* MakeTable() {
  auto* const table = new CharClasses[kNumCodePoints];
  for (char32_t c = 0; c < kNumCodePoints; ++c) table[c] = Classify(c);
  return table;
}

std::string Normalize(absl::string_view text, bool compose) {
  UErrorCode error = U_ZERO_ERROR;
  const icu::Normalizer2* const form =
      compose ? icu::Normalizer2::getNFCInstance(error)
              : icu::Normalizer2::getNFDInstance(error);
  CHECK(U_SUCCESS(error)) << u_errorName(error);
  std::string normal;
  normal.reserve(text.size());
  icu::StringByteSink<std::string> sink(&normal);
  form->normalizeUTF8(
      /*options=*/0,
      icu::StringPiece(text.data(), static_cast<int32_t>(text.size())), sink,
      /*edits=*/nullptr, error);
  CHECK(U_SUCCESS(error)) << u_errorName(error);
  return normal;
}

// ICU counts in 32 bits, so longer text goes in pieces that begin where no
// character combines with the one before: at ASCII.
std::string NormalizeInPieces(absl::string_view text, bool compose) {
  constexpr size_t kPiece = size_t{1} << 26;
  constexpr size_t kMaxPiece = size_t{1} << 30;
  std::string normal;
  while (text.size() > kMaxPiece) {
    size_t cut = kPiece;
    while (cut < text.size() && cut < kMaxPiece &&
           static_cast<unsigned char>(text[cut]) >= 0x80) {
      ++cut;
    }
    while ((static_cast<unsigned char>(text[cut]) & 0xC0) == 0x80) --cut;
    normal += Normalize(text.substr(0, cut), compose);
    text.remove_prefix(cut);
  }
  return normal += Normalize(text, compose);
}

}  // namespace

CharClasses ClassesOf(char32_t c) {
  static const CharClasses* const table = MakeTable();
  return c < kNumCodePoints ? table[c] : 0;
}

size_t PreviousBegin(absl::string_view text, size_t end) {
  size_t begin = end - 1;
  while (begin > 0 && end - begin < 4 &&
         (static_cast<unsigned char>(text[begin]) & 0xC0) == 0x80) {
    --begin;
  }
  return begin;
}

void AppendUtf8(char32_t c, std::string& text) {
  const auto put = [&](char32_t byte) { text += static_cast<char>(byte); };
  if (c < 0x80) {
    put(c);
  } else if (c < 0x800) {
    put(0xC0 | c >> 6);
    put(0x80 | (c & 0x3F));
  } else if (c < 0x10000) {
    put(0xE0 | c >> 12);
    put(0x80 | (c >> 6 & 0x3F));
    put(0x80 | (c & 0x3F));
  } else {
    put(0xF0 | c >> 18);
    put(0x80 | (c >> 12 & 0x3F));
    put(0x80 | (c >> 6 & 0x3F));
    put(0x80 | (c & 0x3F));
  }
}

size_t FindInvalidUtf8(absl::string_view bytes) {
  const auto byte = [&](size_t i) -> unsigned {
    return i < bytes.size() ? static_cast<unsigned char>(bytes[i]) : 0;
  };
  size_t pos = 0;
  while (pos < bytes.size()) {
    const unsigned first = byte(pos);
    if (first < 0x80) {
      ++pos;
      continue;
    }
    if (first < 0xC2 || first > 0xF4) return pos;
    const size_t size = first < 0xE0 ? 2 : first < 0xF0 ? 3 : 4;
    // Of the second byte: overlong forms, surrogates, above U+10FFFF.
    const unsigned low = first == 0xE0 ? 0xA0 : first == 0xF0 ? 0x90 : 0x80;
    const unsigned high = first == 0xED ? 0x9F : first == 0xF4 ? 0x8F : 0xBF;
    if (byte(pos + 1) < low || byte(pos + 1) > high) return pos;
    for (size_t i = 2; i < size; ++i) {
      if ((byte(pos + i) & 0xC0) != 0x80) return pos;
    }
    pos += size;
  }
  return absl::string_view::npos;
}

char32_t ToUpper(char32_t c) {
  return static_cast<char32_t>(u_toupper(static_cast<UChar32>(c)));
}

char32_t ToLower(char32_t c) {
  return static_cast<char32_t>(u_tolower(static_cast<UChar32>(c)));
}

std::string ToNfc(absl::string_view text) {
  return NormalizeInPieces(text, /*compose=*/true);
}

std::string ToNfd(absl::string_view text) {
  return NormalizeInPieces(text, /*compose=*/false);
}

}  // namespace strata
