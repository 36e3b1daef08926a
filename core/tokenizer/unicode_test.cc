#include "core/tokenizer/unicode.h"

#include <string>

#include "absl/strings/string_view.h"
#include "gtest/gtest.h"

namespace strata {
namespace {

TEST(ClassesOfTest, AreThoseOfRegularExpressions) {
  EXPECT_EQ(ClassesOf('a'), kLetter | kWord);
  EXPECT_EQ(ClassesOf(U'学'), kLetter | kWord);
  EXPECT_EQ(ClassesOf(0x0301), kMark | kWord);
  EXPECT_EQ(ClassesOf('7'), kNumber | kDecimalDigit | kWord);
  EXPECT_EQ(ClassesOf(U'½'), kNumber);
  EXPECT_EQ(ClassesOf('_'), kPunctuation | kWord);
  EXPECT_EQ(ClassesOf('!'), kPunctuation);
  EXPECT_EQ(ClassesOf('+'), kSymbol);
  EXPECT_EQ(ClassesOf(0x1F600), kSymbol);
  EXPECT_EQ(ClassesOf(0x200D), kWord);  // A joiner.
  for (const char32_t space :
       {U' ', U'\t', U'\n', U'\v', U'\f', U'\r', U'\x85', U'\xA0', U'\u1680',
        U'\u2000', U'\u200A', U'\u2028', U'\u202F', U'\u205F', U'\u3000'}) {
    EXPECT_EQ(ClassesOf(space), kSpace) << static_cast<int>(space);
  }
  EXPECT_EQ(ClassesOf(0x200B), 0);  // Zero-width space is none.
  EXPECT_EQ(ClassesOf(0x10FFFF), 0);
  EXPECT_EQ(ClassesOf(0x110000), 0);
}

TEST(DecodeAtTest, ReadsCharactersOfEachLength) {
  const absl::string_view text = "a\u00E9\u20AC\U0001F600";
  const char32_t want[] = {'a', 0xE9, 0x20AC, 0x1F600};
  size_t pos = 0;
  for (const char32_t c : want) {
    const Decoded decoded = DecodeAt(text, pos);
    EXPECT_EQ(decoded.c, c);
    EXPECT_EQ(PreviousBegin(text, decoded.end), pos);
    pos = decoded.end;
  }
  EXPECT_EQ(pos, text.size());
}

TEST(DecodeAtTest, NeverReadsBeyondTheText) {
  EXPECT_EQ(DecodeAt("\xF0", 0).end, 1);
  EXPECT_EQ(DecodeAt("\xE2\x82", 0).end, 2);
}

TEST(AppendUtf8Test, IsWhatDecodeAtReads) {
  for (const char32_t c :
       {0x0, 0x7F, 0x80, 0x7FF, 0x800, 0xFFFF, 0x10000, 0x10FFFF}) {
    std::string text;
    AppendUtf8(c, text);
    EXPECT_EQ(DecodeAt(text, 0).c, c);
    EXPECT_EQ(DecodeAt(text, 0).end, text.size());
  }
}

TEST(FindInvalidUtf8Test, SaysWhere) {
  constexpr auto kNone = absl::string_view::npos;
  EXPECT_EQ(FindInvalidUtf8(""), kNone);
  EXPECT_EQ(FindInvalidUtf8("a\u00E9\u20AC\U0001F600\uD7FF\uE000"), kNone);
  EXPECT_EQ(FindInvalidUtf8("ab\x80"), 2);
  EXPECT_EQ(FindInvalidUtf8("a\xC3"), 1);
  EXPECT_EQ(FindInvalidUtf8("\xE2\x82z"), 0);
  EXPECT_EQ(FindInvalidUtf8("\xC0\x80"), 0);
  EXPECT_EQ(FindInvalidUtf8("\xE0\x9F\xBF"), 0);
  EXPECT_EQ(FindInvalidUtf8("\xED\xA0\x80"), 0);
  EXPECT_EQ(FindInvalidUtf8("\xF0\x8F\xBF\xBF"), 0);
  EXPECT_EQ(FindInvalidUtf8("\xF4\x90\x80\x80"), 0);
  EXPECT_EQ(FindInvalidUtf8("\xF5\x80\x80\x80"), 0);
}

TEST(CaseTest, KnowsLettersBeyondAscii) {
  EXPECT_EQ(ToUpper(U'\u00E9'), U'\u00C9');
  EXPECT_EQ(ToLower('Q'), U'q');
  EXPECT_EQ(ToUpper('1'), U'1');
}

TEST(NormalFormTest, ComposesAndDecomposes) {
  EXPECT_EQ(ToNfc("e\u0301 \u1112\u1161\u11AB \u212B"), "\u00E9 \uD55C \u00C5");
  EXPECT_EQ(ToNfd("\u00E9\uD55C"), "e\u0301\u1112\u1161\u11AB");
  EXPECT_EQ(ToNfc(""), "");
  // Marks in another order are the same text.
  EXPECT_EQ(ToNfc("a\u0323\u0302"), ToNfc("a\u0302\u0323"));
}

}  // namespace
}  // namespace strata
