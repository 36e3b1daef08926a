#include "tools/strata/output.h"

#include <cstdint>
#include <limits>

#include "gtest/gtest.h"

namespace strata {
namespace {

TEST(FormatIntegerTest, SetsACommaAfterEachThousand) {
  EXPECT_EQ(FormatInteger(0), "0");
  EXPECT_EQ(FormatInteger(999), "999");
  EXPECT_EQ(FormatInteger(1000), "1,000");
  EXPECT_EQ(FormatInteger(671026419200), "671,026,419,200");
  EXPECT_EQ(FormatInteger(-999), "-999");
  EXPECT_EQ(FormatInteger(-1234567), "-1,234,567");
  EXPECT_EQ(FormatInteger(std::numeric_limits<int64_t>::min()),
            "-9,223,372,036,854,775,808");
}

TEST(FormatTableTest, AlignsColumnsByCharactersNotBytes) {
  EXPECT_EQ(FormatTable({{"", "a", "long"}, {"row", "1 ± 2", "3"}}),
            "         a  long\n"
            "---  -----  ----\n"
            "row  1 ± 2     3\n");
}

TEST(FormatTableTest, TakesRowsOfDifferentLengths) {
  EXPECT_EQ(FormatTable({{"a"}, {"b", "1"}}),
            "a\n"
            "-  -\n"
            "b  1\n");
}

TEST(PrintableTest, LeavesTextAloneAndDefusesControls) {
  EXPECT_EQ(Printable("a\tb\nc é €"), "a\tb\nc é €");
  EXPECT_EQ(Printable("\x1b[2J"), "\xEF\xBF\xBD[2J");
  EXPECT_EQ(Printable("x\x7f\r"), "x\xEF\xBF\xBD\xEF\xBF\xBD");
  EXPECT_EQ(Printable("\xC2\x9B"
                      "2J"),
            "\xEF\xBF\xBD"
            "2J");
}

}  // namespace
}  // namespace strata
