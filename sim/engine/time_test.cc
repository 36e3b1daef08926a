#include "sim/engine/time.h"

#include <limits>

#include "gtest/gtest.h"

namespace strata::sim {
namespace {

TEST(TimeTest, ConvertsToTheNearestPicosecond) {
  EXPECT_EQ(FromSeconds(1), kPicosecondsPerSecond);
  EXPECT_EQ(FromMicroseconds(2.5), 2'500'000);
  EXPECT_EQ(FromSeconds(1.4e-12), 1);
  EXPECT_EQ(FromSeconds(1.6e-12), 2);
  EXPECT_EQ(ToSeconds(FromSeconds(0.125)), 0.125);
  EXPECT_EQ(ToMicroseconds(1'500'000), 1.5);
}

TEST(TimeTest, StopsAtTheEndsOfItsRange) {
  EXPECT_EQ(FromSeconds(-1), 0);
  // 2^63 ps are 9.22e6 s.
  EXPECT_LT(FromSeconds(9.2e6), kForever);
  EXPECT_EQ(FromSeconds(9.3e6), kForever);
  EXPECT_EQ(FromSeconds(std::numeric_limits<double>::infinity()), kForever);
  EXPECT_EQ(FromSeconds(std::numeric_limits<double>::quiet_NaN()), kForever);
  EXPECT_EQ(AddTime(kForever - 1, 1), kForever);
  EXPECT_EQ(AddTime(kForever - 1, 2), kForever);
  EXPECT_EQ(AddTime(1, 2), 3);
}

}  // namespace
}  // namespace strata::sim
