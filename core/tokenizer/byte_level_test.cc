#include "core/tokenizer/byte_level.h"

#include <set>
#include <string>

#include "gtest/gtest.h"

namespace strata {
namespace {

TEST(ByteLevelTest, HasAVisibleCharacterForEachByte) {
  std::set<char32_t> seen;
  for (int byte = 0; byte < 256; ++byte) {
    const char32_t c = ByteLevelChar(static_cast<unsigned char>(byte));
    EXPECT_TRUE(seen.insert(c).second);
    EXPECT_EQ(ByteLevelByte(c), byte);
  }
  EXPECT_EQ(ByteLevelChar(0x00), 0x100);
  EXPECT_EQ(ByteLevelChar(' '), 0x120);
  EXPECT_EQ(ByteLevelChar('!'), '!');
  EXPECT_EQ(ByteLevelChar('~'), '~');
  EXPECT_EQ(ByteLevelChar(0x7F), 0x121);
  EXPECT_EQ(ByteLevelChar(0xA0), 0x142);
  EXPECT_EQ(ByteLevelChar(0xAD), 0x143);  // The last of the 68.
  EXPECT_EQ(ByteLevelChar(0xFF), 0xFF);
  EXPECT_EQ(ByteLevelByte(0x144), -1);
  EXPECT_EQ(ByteLevelByte(' '), -1);
  EXPECT_EQ(ByteLevelByte(0x10FFFF), -1);
}

TEST(ByteLevelTest, SpellsTextAndReadsIt) {
  EXPECT_EQ(ToByteLevel(" h\u00E9"), "\u0120h\u00C3\u00A9");
  std::string bytes;
  EXPECT_TRUE(FromByteLevel("\u0120h\u00C3\u00A9", bytes));
  EXPECT_EQ(bytes, " h\u00E9");
  EXPECT_FALSE(FromByteLevel("a b", bytes));
  EXPECT_FALSE(FromByteLevel("\u2581", bytes));
}

}  // namespace
}  // namespace strata
