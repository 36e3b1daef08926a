#include "core/base/build_info.h"

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace strata {
namespace {

using ::testing::MatchesRegex;

TEST(BuildInfoTest, VersionIsThreeNumbers) {
  EXPECT_THAT(Version(), MatchesRegex("[0-9]+\\.[0-9]+\\.[0-9]+"));
}

// A test that changed with every commit could never be cached.
TEST(BuildInfoTest, TestsAreNotStamped) { EXPECT_EQ(Commit(), "unknown"); }

}  // namespace
}  // namespace strata
