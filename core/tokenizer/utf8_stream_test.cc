#include "core/tokenizer/utf8_stream.h"

#include <string>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace strata {
namespace {

using ::testing::ElementsAre;

constexpr char kBad[] = "\xEF\xBF\xBD";

std::vector<std::string> PushAll(const std::string& bytes) {
  Utf8Stream stream;
  std::vector<std::string> pieces;
  for (const char byte : bytes) {
    pieces.push_back(stream.Push(static_cast<unsigned char>(byte)));
  }
  pieces.push_back(stream.Finish());
  return pieces;
}

TEST(Utf8StreamTest, GivesCharactersWholeAsTheirLastByteComes) {
  EXPECT_THAT(PushAll("a\xC3\xA9"), ElementsAre("a", "", "\xC3\xA9", ""));
  EXPECT_THAT(PushAll("\xE2\x82\xAC"), ElementsAre("", "", "\xE2\x82\xAC", ""));
  EXPECT_THAT(PushAll("\xF0\x9F\x98\x80"),
              ElementsAre("", "", "", "\xF0\x9F\x98\x80", ""));
}

TEST(Utf8StreamTest, ReplacesACharacterThatIsCutShort) {
  EXPECT_THAT(PushAll("\xE2\x82"), ElementsAre("", "", kBad));
  // The byte that cuts it short counts for itself.
  EXPECT_THAT(PushAll("\xE2\x82x"),
              ElementsAre("", "", std::string(kBad) + "x", ""));
  EXPECT_THAT(PushAll("\xE2\xC3\xA9"), ElementsAre("", kBad, "\xC3\xA9", ""));
}

TEST(ToUtf8Test, KeepsEveryCharacterAtTheEdgesOfItsLength) {
  for (const char* text : {"\x7F", "\xC2\x80", "\xDF\xBF", "\xE0\xA0\x80",
                           "\xED\x9F\xBF", "\xEE\x80\x80", "\xEF\xBF\xBF",
                           "\xF0\x90\x80\x80", "\xF4\x8F\xBF\xBF"}) {
    EXPECT_EQ(ToUtf8(text), text);
  }
}

TEST(ToUtf8Test, ReplacesWhatIsNoCharacter) {
  const std::string bad = kBad;
  EXPECT_EQ(ToUtf8("\x80"), bad);
  EXPECT_EQ(ToUtf8("\xFF\xFE"), bad + bad);
  EXPECT_EQ(ToUtf8("\xC0\x80"), bad + bad);            // Overlong.
  EXPECT_EQ(ToUtf8("\xE0\x9F\xBF"), bad + bad + bad);  // Overlong.
  EXPECT_EQ(ToUtf8("\xED\xA0\x80"), bad + bad + bad);  // A surrogate.
  EXPECT_EQ(ToUtf8("\xF4\x90\x80\x80"), bad + bad + bad + bad);
  EXPECT_EQ(ToUtf8("a\xF0\x9F\x98z"), "a" + bad + "z");
}

}  // namespace
}  // namespace strata
