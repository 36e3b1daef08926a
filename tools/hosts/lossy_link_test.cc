#include "tools/hosts/lossy_link.h"

#include <cstdint>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/time/time.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace strata {
namespace {

using ::testing::ElementsAre;

constexpr absl::Time kStart = absl::UnixEpoch();

// The packets that have arrived by `now`, in order.
std::vector<std::string> Arrived(LossyLink& link, absl::Time now) {
  std::vector<std::string> bytes;
  while (const auto packet = link.Due(now)) bytes.push_back(packet->bytes);
  return bytes;
}

TEST(LossyLinkTest, PacketsArriveAfterTheDelayAtTheirHost) {
  LossyLink link({absl::Milliseconds(2)});
  EXPECT_EQ(link.next(), absl::InfiniteFuture());

  link.Send(kStart, {3, "a"});
  link.Send(kStart + absl::Milliseconds(1), {4, "b"});

  EXPECT_EQ(link.next(), kStart + absl::Milliseconds(2));
  EXPECT_FALSE(link.Due(kStart + absl::Microseconds(1999)));
  const auto first = link.Due(kStart + absl::Milliseconds(2));
  ASSERT_TRUE(first.has_value());
  EXPECT_EQ(first->to, 3);
  EXPECT_EQ(first->bytes, "a");
  EXPECT_FALSE(link.Due(kStart + absl::Milliseconds(2)));
  EXPECT_THAT(Arrived(link, kStart + absl::Milliseconds(3)), ElementsAre("b"));
}

TEST(LossyLinkTest, JitterIsWithinItsBoundsAndLetsPacketsOvertake) {
  LossyLink link({absl::Milliseconds(2), absl::Milliseconds(1)});
  for (int i = 0; i < 1000; ++i) link.Send(kStart, {0, absl::StrCat(i)});

  EXPECT_GE(link.next(), kStart + absl::Milliseconds(1));
  const auto all = Arrived(link, kStart + absl::Milliseconds(3));
  EXPECT_EQ(all.size(), 1000);
  int overtaken = 0;
  for (size_t i = 1; i < all.size(); ++i) {
    overtaken += std::stoi(all[i]) < std::stoi(all[i - 1]);
  }
  EXPECT_GT(overtaken, 100);  // Half of them, if times are uniform.
}

// Of 10,000 packets 1 % is 100; the standard deviation is 10.
TEST(LossyLinkTest, AsManyAreLostAsItSays) {
  LossyLink link({absl::ZeroDuration(), absl::ZeroDuration(), 0.01});
  for (int i = 0; i < 10'000; ++i) link.Send(kStart, {0, ""});
  EXPECT_EQ(link.sent(), 10'000);
  EXPECT_GT(link.lost(), 50);
  EXPECT_LT(link.lost(), 150);
  EXPECT_EQ(Arrived(link, kStart).size(), 10'000 - link.lost());
}

TEST(LossyLinkTest, TheSeedSaysWhatHappens) {
  const auto run = [](uint64_t seed) {
    LossyLink link({absl::Milliseconds(2), absl::Milliseconds(1), 0.2, seed});
    for (int i = 0; i < 100; ++i) link.Send(kStart, {0, absl::StrCat(i)});
    return Arrived(link, absl::InfiniteFuture());
  };
  EXPECT_EQ(run(1), run(1));
  EXPECT_NE(run(1), run(2));
}

TEST(LossyLinkTest, NothingArrivesOfACutLink) {
  LossyLink link({absl::Milliseconds(2)});
  link.Send(kStart, {0, "under way"});

  link.Cut();
  link.Send(kStart, {0, "later"});
  EXPECT_EQ(link.next(), absl::InfiniteFuture());
  EXPECT_EQ(link.lost(), 2);

  link.Mend();
  link.Send(kStart, {0, "mended"});
  EXPECT_THAT(Arrived(link, absl::InfiniteFuture()), ElementsAre("mended"));
}

}  // namespace
}  // namespace strata
