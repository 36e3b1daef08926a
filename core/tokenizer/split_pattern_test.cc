#include "core/tokenizer/split_pattern.h"

#include <cstddef>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "core/testing/status_matchers.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace strata {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

// The matches; what lies between them in parentheses.
std::vector<std::string> Pieces(const SplitPattern& pattern,
                                absl::string_view text) {
  std::vector<std::string> pieces;
  size_t end = 0;
  const auto put_gap = [&](size_t until) {
    if (until > end) {
      pieces.push_back(absl::StrCat("(", text.substr(end, until - end), ")"));
    }
  };
  while (true) {
    const SplitPattern::Match match = pattern.Find(text, end);
    if (match.begin == absl::string_view::npos) break;
    EXPECT_GE(match.begin, end);
    EXPECT_GT(match.end, match.begin);
    put_gap(match.begin);
    pieces.emplace_back(text.substr(match.begin, match.end - match.begin));
    end = match.end;
  }
  put_gap(text.size());
  return pieces;
}

std::vector<std::string> Pieces(const char* regex, absl::string_view text) {
  const auto pattern = RegexPattern(regex);
  EXPECT_THAT(pattern, IsOk());
  return pattern.ok() ? Pieces(**pattern, text) : std::vector<std::string>();
}

TEST(RegexPatternTest, Llama3TakesWordsWithTheCharacterBefore) {
  EXPECT_THAT(Pieces(kLlama3Regex, "Hello world"),
              ElementsAre("Hello", " world"));
  EXPECT_THAT(Pieces(kLlama3Regex, "(tab\tword)"),
              ElementsAre("(tab", "\tword", ")"));
  EXPECT_THAT(Pieces(kLlama3Regex, "\nword"), ElementsAre("\n", "word"));
  EXPECT_THAT(Pieces(kLlama3Regex, "été 学习"), ElementsAre("été", " 学习"));
  EXPECT_THAT(Pieces(kLlama3Regex, ""), IsEmpty());
}

TEST(RegexPatternTest, Llama3TakesContractionsInAnyCase) {
  EXPECT_THAT(Pieces(kLlama3Regex, "I'M they'll've"),
              ElementsAre("I", "'M", " they", "'ll", "'ve"));
  // The first alternative that fits, also within a longer word.
  EXPECT_THAT(Pieces(kLlama3Regex, "'sure 'Re 'l 'v"),
              ElementsAre("'s", "ure", " '", "Re", " '", "l", " '", "v"));
  // Without case, U+017F is an s.
  EXPECT_THAT(Pieces(kLlama3Regex, "it'\u017Fx"),
              ElementsAre("it", "'\u017F", "x"));
}

TEST(RegexPatternTest, Llama3TakesThreeDigitsAndQwen2One) {
  EXPECT_THAT(Pieces(kLlama3Regex, "1234567"), ElementsAre("123", "456", "7"));
  EXPECT_THAT(Pieces(kQwen2Regex, "12½"), ElementsAre("1", "2", "½"));
  EXPECT_THAT(Pieces(kLlama3Regex, " 12"), ElementsAre(" ", "12"));
  // Arabic-Indic digits, a Roman numeral.
  EXPECT_THAT(Pieces(kLlama3Regex, "٣٤Ⅷ"), ElementsAre("٣٤Ⅷ"));
}

TEST(RegexPatternTest, Llama3TakesSignsWithASpaceBeforeAndNewlinesAfter) {
  EXPECT_THAT(Pieces(kLlama3Regex, " ++\r\n\nx"),
              ElementsAre(" ++\r\n\n", "x"));
  EXPECT_THAT(Pieces(kLlama3Regex, "a\u0301b"),  // A combining mark.
              ElementsAre("a", "\u0301b"));
  EXPECT_THAT(Pieces(kLlama3Regex, "\t+"), ElementsAre("\t", "+"));
}

TEST(RegexPatternTest, Llama3LeavesTheLastSpaceToTheWord) {
  EXPECT_THAT(Pieces(kLlama3Regex, "a   b"), ElementsAre("a", "  ", " b"));
  EXPECT_THAT(Pieces(kLlama3Regex, "a   "), ElementsAre("a", "   "));
  EXPECT_THAT(Pieces(kLlama3Regex, "   "), ElementsAre("   "));
  EXPECT_THAT(Pieces(kLlama3Regex, " "), ElementsAre(" "));
  // Up to the last newline; then as without.
  EXPECT_THAT(Pieces(kLlama3Regex, "a \n \r\n  b"),
              ElementsAre("a", " \n \r\n", " ", " b"));
  EXPECT_THAT(Pieces(kLlama3Regex, "a\u00A0\u00A0b\u3000 7"),
              ElementsAre("a", "\u00A0", "\u00A0b", "\u3000", " ", "7"));
}

TEST(RegexPatternTest, Gpt2KnowsNoCaseAndNoNewlines) {
  EXPECT_THAT(
      Pieces(kGpt2Regex, "I'm I'M 1234 !!\n\n x"),
      ElementsAre("I", "'m", " I", "'", "M", " 1234", " !!", "\n\n", " x"));
  EXPECT_THAT(Pieces(kGpt2Regex, "a  "), ElementsAre("a", "  "));
  EXPECT_THAT(Pieces(kGpt2Regex, "a\t b"), ElementsAre("a", "\t", " b"));
}

TEST(RegexPatternTest, DeepSeekV3TakesASignWithAsciiLetters) {
  EXPECT_THAT(Pieces(kDeepSeekV3Regex, "_abc.def(x)"),
              ElementsAre("_abc", ".def", "(x", ")"));
  // é is no ASCII letter, so the sign stays alone.
  EXPECT_THAT(Pieces(kDeepSeekV3Regex, ".éa .b"),
              ElementsAre(".", "éa", " .", "b"));
  EXPECT_THAT(Pieces(kDeepSeekV3Regex, "'sé"), ElementsAre("'s", "é"));
}

TEST(RegexPatternTest, DeepSeekV3KeepsMarksWithLetters) {
  EXPECT_THAT(Pieces(kDeepSeekV3Regex, "a\u0301b \u0301x"),
              ElementsAre("a\u0301b", " \u0301x"));
  // A digit may come before letters, as it is none of \r\n, \p{L}, \p{P},
  // \p{S}; else it is in no match.
  EXPECT_THAT(Pieces(kDeepSeekV3Regex, "12ab 34"),
              ElementsAre("(1)", "2ab", " ", "(34)"));
  // Neither is a zero-width joiner between emoji.
  EXPECT_THAT(Pieces(kDeepSeekV3Regex, "😶\u200D🌫\uFE0F"),
              ElementsAre("😶", "(\u200D)", "🌫", "\uFE0F"));
}

TEST(RegexPatternTest, DeepSeekV3IsKnownWithNewlinesWrittenEitherWay) {
  const std::string escaped =
      R"([!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|)"
      R"([^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*|)"
      R"(\s*[\r\n]+|\s+(?!\S)|\s+)";
  EXPECT_THAT(Pieces(escaped.c_str(), "a, b;\r\nc"),
              ElementsAre("a", ",", " b", ";\r\n", "c"));
}

TEST(RegexPatternTest, RunsOfAClass) {
  EXPECT_THAT(Pieces("\\p{N}{1,3}", "a1234b5"),
              ElementsAre("(a)", "123", "4", "(b)", "5"));
  EXPECT_THAT(Pieces("\\p{N}", "a12"), ElementsAre("(a)", "1", "2"));
  EXPECT_THAT(Pieces("\\p{N}+", "a12b"), ElementsAre("(a)", "12", "(b)"));
  EXPECT_THAT(Pieces("[一-龥\u3040-ゟ゠-ヿ]+", "ab漢字かなカナ!"),
              ElementsAre("(ab)", "漢字かなカナ", "(!)"));
  EXPECT_THAT(Pieces("[\r\n]", "a\r\n"), ElementsAre("(a)", "\r", "\n"));
  EXPECT_THAT(Pieces("[^a-c\\s]+", "abxyc z"),
              ElementsAre("(ab)", "xy", "(c )", "z"));
}

TEST(RegexPatternTest, RunsWithACharacterBefore) {
  EXPECT_THAT(Pieces("\\s?[A-Za-z]+", "ab  cd 1"),
              ElementsAre("ab", "( )", " cd", "( 1)"));
  // The character before may be of the class itself, and may be all there is.
  EXPECT_THAT(Pieces("\\s?[!\u3000]+", "\u3000!\u3000 \u3000x "),
              ElementsAre("\u3000!\u3000", " \u3000", "(x )"));
}

TEST(RegexPatternTest, RunsAtTheEndOfALine) {
  EXPECT_THAT(Pieces("\\s+$", "a  b  "), ElementsAre("(a  b)", "  "));
  EXPECT_THAT(Pieces("\\s+$", "a  b"), ElementsAre("(a  b)"));
  // Up to the last newline of the run, before which a line ends.
  EXPECT_THAT(Pieces("\\s+$", "a \n \n b"),
              ElementsAre("(a)", " \n ", "(\n b)"));
  EXPECT_THAT(Pieces("\\s+$", "\n"), ElementsAre("\n"));
}

TEST(RegexPatternTest, RefusesWhatItDoesNotKnow) {
  for (const char* regex :
       {"",        "(a|b)+", "a*",     "[a",   "[a]]x",       "\\p{Lu}+",
        "\\w+",    "a{2,3}", "a{1,0}", "a{1,", "[[:alpha:]]", "[a&&b]",
        "[b-a]",   "a|b",    ".",      "a+b",  "a?b+$",       "\\",
        "[a-\\s]", "(?i:a)"}) {
    EXPECT_THAT(RegexPattern(regex),
                StatusIs(absl::StatusCode::kUnimplemented,
                         HasSubstr("there are those of GPT-2, Llama 3")))
        << regex;
  }
}

TEST(TextPatternTest, FindsOccurrencesNoneInAnother) {
  EXPECT_THAT(Pieces(*TextPattern("aa"), "xaaaay"),
              ElementsAre("(x)", "aa", "aa", "(y)"));
  EXPECT_THAT(Pieces(*TextPattern(""), "ab"), ElementsAre("(ab)"));
}

// A walk that started over for each character would take some 10^12 steps in
// all, which is an hour.
TEST(RegexPatternTest, TakesLinearTimeOnLongRuns) {
  constexpr size_t kSize = 1 << 17;
  for (const char* regex :
       {kGpt2Regex, kLlama3Regex, kQwen2Regex, kDeepSeekV3Regex, "\\p{N}{1,3}",
        "\\s+$", "\\s?[A-Za-z]+"}) {
    for (const char* unit : {" ", "\n", "a", "1", "!", " \n", "\u0301", "'",
                             "\u200D", "\u3000", " a", "  \n x"}) {
      std::string text;
      while (text.size() < kSize) text += unit;
      // What follows lets whatever looked ahead in vain fail at the end.
      for (const char* end : {"", "x"}) {
        const auto pattern = RegexPattern(regex);
        ASSERT_THAT(pattern, IsOk());
        const std::string whole = text + end;
        size_t position = 0;
        while (true) {
          const SplitPattern::Match match = (*pattern)->Find(whole, position);
          if (match.begin == absl::string_view::npos) break;
          position = match.end;
        }
        EXPECT_LE(position, whole.size());
      }
    }
  }
}

}  // namespace
}  // namespace strata
