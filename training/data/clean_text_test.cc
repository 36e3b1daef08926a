#include "training/data/clean_text.h"

#include <string>
#include <string_view>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace strata {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;
using ::testing::SizeIs;

TEST(NormaliseLinesTest, MakesOneKindOfLineEnd) {
  EXPECT_EQ(NormaliseLines("\xEF\xBB\xBF"
                           "a\r\nb\rc\n\r"),
            "a\nb\nc\n\n");
  EXPECT_EQ(NormaliseLines("_\bx_\by, \b."), "xy,.");
  EXPECT_EQ(NormaliseLines("\b\n\bz"), "\nz");
}

TEST(StripGutenbergFrameTest, KeepsTheBookAlone) {
  EXPECT_EQ(StripGutenbergFrame(
                "header\n*** START OF THIS PROJECT GUTENBERG EBOOK X ***\n"
                "one\ntwo\n*** END OF THE PROJECT GUTENBERG EBOOK X ***\n"
                "licence\n"),
            "one\ntwo\n");
  EXPECT_EQ(StripGutenbergFrame("*** START OF A DAY\ntext"),
            "*** START OF A DAY\ntext");
}

TEST(JoinFortunesTest, PutsABlankLineBetweenSayings) {
  EXPECT_EQ(JoinFortunes("a\n%\nb 5 %\nc\n%"), "a\n\nb 5 %\nc\n\n");
}

TEST(LicenceOfPerlModuleTest, KeepsWhatFollowsTheMark) {
  EXPECT_EQ(LicenceOfPerlModule("code;\n__DATA__\n__LICENSE__\nYou may.\n"),
            "You may.\n");
  EXPECT_THAT(LicenceOfPerlModule("code;\n"), IsEmpty());
}

TEST(RepeatedParagraphsTest, DropsTheSameWordsInAnotherDress) {
  const std::string words =
      "Permission is hereby granted, free of charge, to any person who obtains "
      "a copy of this software and its manual.";
  const std::string comment =
      " * Permission is hereby granted, free of charge,\n"
      " * to any person who obtains a copy of this\n"
      " * software and its manual.\n";
  RepeatedParagraphs repeated;

  EXPECT_EQ(repeated.Drop("/*\n" + comment + " */\nint a;\n"),
            "/*\n" + comment + " */\nint a;\n");
  EXPECT_EQ(repeated.Drop(words + "\n\nint b;\n"), "int b;\n");
  EXPECT_EQ(repeated.Drop("License: X\n .\n" + comment + " .\n last"),
            "License: X\n .\n last");
}

// `num_words` words, from number `first` on.
std::string Words(int first, int num_words) {
  std::string words;
  for (int i = 0; i < num_words; ++i) {
    words += "w" + std::to_string(first + i) + " ";
  }
  return words;
}

TEST(RepeatedParagraphsTest, AlwaysKeepsShortParagraphs) {
  RepeatedParagraphs repeated;

  EXPECT_EQ(repeated.Drop(Words(0, 11) + "\n\n" + Words(0, 11)),
            Words(0, 11) + "\n\n" + Words(0, 11));
  EXPECT_EQ(repeated.Drop(Words(50, 12) + "\n\n" + Words(50, 12)),
            Words(50, 12) + "\n\n");
}

// Of 20 words 15 runs of six. Told again with the first 13 words of 20, 8 runs
// were known; with the first 12, 7 were.
TEST(RepeatedParagraphsTest, HalfOfTheRunsMakeARepeat) {
  RepeatedParagraphs repeated;
  repeated.Drop(Words(0, 20));
  repeated.Drop(Words(1000, 20));

  EXPECT_EQ(repeated.Drop(Words(0, 13) + Words(500, 7)), "");
  EXPECT_EQ(repeated.Drop(Words(1000, 12) + Words(700, 8)),
            Words(1000, 12) + Words(700, 8));
}

TEST(SplitIntoPiecesTest, CutsAtBlankLinesThenAtLineEndsThenAnywhere) {
  EXPECT_THAT(SplitIntoPieces("", 8), IsEmpty());
  EXPECT_THAT(SplitIntoPieces("12345678", 8), ElementsAre("12345678"));
  EXPECT_THAT(SplitIntoPieces("abcd\n\nef\ngh", 8),
              ElementsAre("abcd\n\n", "ef\ngh"));
  EXPECT_THAT(SplitIntoPieces("a\n\ncd\nfgh\n", 8),  // Blank line too early.
              ElementsAre("a\n\ncd\n", "fgh\n"));
  EXPECT_THAT(SplitIntoPieces("123456789", 4),
              ElementsAre("1234", "5678", "9"));
}

TEST(SplitIntoPiecesTest, PiecesJoinedAreTheText) {
  std::string text;
  for (int i = 0; i < 1000; ++i) {
    text += std::string(i % 37, 'a' + i % 26);
    text += i % 5 == 0 ? "\n\n" : "\n";
  }

  const std::vector<std::string_view> pieces = SplitIntoPieces(text, 100);

  std::string joined;
  for (const std::string_view piece : pieces) {
    EXPECT_LE(piece.size(), 100);
    joined += piece;
  }
  EXPECT_EQ(joined, text);
  EXPECT_THAT(pieces, SizeIs(::testing::Gt(text.size() / 100)));
}

}  // namespace
}  // namespace strata
