#include "sim/replay/shared_links.h"

#include <algorithm>
#include <cstdint>
#include <vector>

#include "core/base/random.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "sim/collective/collective.h"
#include "sim/engine/event_queue.h"
#include "sim/engine/time.h"

namespace strata::sim {
namespace {

using ::testing::ElementsAre;

class Ends : public EventHandler {
 public:
  void OnEvent(Picoseconds now, uint64_t tag) override {
    if (at.size() <= tag) at.resize(tag + 1, -1);
    at[tag] = now;
  }
  std::vector<Picoseconds> at;  // [tags]
};

class SharedLinksTest : public ::testing::Test {
 protected:
  EventQueue queue_;
  SharedLinks links_{/*num_links=*/4, queue_};
  Ends ends_;
};

TEST_F(SharedLinksTest, AloneTakesLatencyAndWork) {
  const std::vector<LinkShare> both = {{0, 1}, {1, 0.5}};
  links_.Start(10, 100, both, &ends_, 0);
  links_.Start(7, 0, {}, &ends_, 1);

  queue_.Run();

  EXPECT_THAT(ends_.at, ElementsAre(110, 7));
}

TEST_F(SharedLinksTest, TwoOnALinkTakeTurnsFairly) {
  // Until 200 both have half the link, then 100 of work is done; what is left
  // of the second, 100, goes at full speed.
  const std::vector<LinkShare> link = {{2, 1}};
  links_.Start(0, 100, link, &ends_, 0);
  links_.Start(0, 200, link, &ends_, 1);

  queue_.Run();

  EXPECT_THAT(ends_.at, ElementsAre(200, 300));
}

TEST_F(SharedLinksTest, LatencyTakesNoLink) {
  const std::vector<LinkShare> link = {{0, 1}};
  links_.Start(0, 100, link, &ends_, 0);
  links_.Start(100, 100, link, &ends_, 1);

  queue_.Run();

  EXPECT_THAT(ends_.at, ElementsAre(100, 200));
}

TEST_F(SharedLinksTest, PartsOfALinkDoNotMeet) {
  const std::vector<LinkShare> a = {{0, 1}, {1, 0.5}};
  const std::vector<LinkShare> b = {{2, 1}, {1, 0.5}};
  links_.Start(0, 100, a, &ends_, 0);
  links_.Start(0, 80, b, &ends_, 1);

  queue_.Run();

  EXPECT_THAT(ends_.at, ElementsAre(100, 80));
}

TEST_F(SharedLinksTest, WhatIsFreedGoesToWhoCanUseIt) {
  // Link 0 is shared by 0, 1 and 2: a third each. 3 has what they leave of link
  // 1, where 2 takes a third: two thirds, so its 100 end at 150.
  const std::vector<LinkShare> first = {{0, 1}};
  const std::vector<LinkShare> middle = {{0, 1}, {1, 1}};
  const std::vector<LinkShare> second = {{1, 1}};
  links_.Start(0, 1000, first, &ends_, 0);
  links_.Start(0, 1000, first, &ends_, 1);
  links_.Start(0, 1000, middle, &ends_, 2);
  links_.Start(0, 100, second, &ends_, 3);

  queue_.RunUntil(150);

  EXPECT_EQ(ends_.at.back(), 150);
}

// Whatever starts when: a link never works more than all the time, so that what
// is alike ends no earlier than its work on a link fits, and none ends before
// it would alone.
TEST_F(SharedLinksTest, NoLinkDoesMoreThanItCan) {
  Random random(/*seed=*/3, /*stream=*/0);
  constexpr int kNumLinks = 4;
  std::vector<std::vector<LinkShare>> shares(200);
  std::vector<double> busy(kNumLinks, 0);
  std::vector<Picoseconds> alone;
  for (size_t i = 0; i < shares.size(); ++i) {
    for (int link = 0; link < kNumLinks; ++link) {
      if (random.UniformInt(2) == 0) continue;
      shares[i].push_back({link, 0.25 * (1 + random.UniformInt(4))});
    }
    if (!shares[i].empty()) shares[i][0].share = 1;
    const Picoseconds latency = random.UniformInt(1000);
    const Picoseconds work = 1 + random.UniformInt(100000);
    alone.push_back(latency + work);
    for (const LinkShare& share : shares[i]) {
      busy[share.link] += share.share * static_cast<double>(work);
    }
    links_.Start(latency, work, shares[i], &ends_, i);
  }

  queue_.Run();

  ASSERT_EQ(ends_.at.size(), shares.size());
  Picoseconds last = 0;
  double most = 0;
  for (size_t i = 0; i < shares.size(); ++i) {
    EXPECT_GE(ends_.at[i], alone[i] - 1) << i;
    if (!shares[i].empty()) last = std::max(last, ends_.at[i]);
  }
  for (const double seconds : busy) most = std::max(most, seconds);
  // Each end is rounded to a picosecond.
  EXPECT_GE(static_cast<double>(last), most - 200);
  // Max-min leaves no link idle that somebody could use, but those who use it
  // may wait for others; so no sharp upper bound but the sum.
  EXPECT_LE(static_cast<double>(last), busy[0] + busy[1] + busy[2] + busy[3]);
}

}  // namespace
}  // namespace strata::sim
