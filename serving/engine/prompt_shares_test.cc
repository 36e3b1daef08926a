#include "serving/engine/prompt_shares.h"

#include <algorithm>
#include <cstdint>
#include <numeric>
#include <random>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace strata {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;

// Prompts in order of arrival, the shorter ones due first.
std::vector<PromptDemand> Demands(std::vector<int64_t> wanted) {
  std::vector<PromptDemand> demands;
  for (const int64_t tokens : wanted) {
    PromptDemand demand;
    demand.id = static_cast<int64_t>(demands.size());
    demand.wanted = tokens;
    demand.due = static_cast<double>(tokens);
    demands.push_back(demand);
  }
  return demands;
}

TEST(PromptSharesTest, WhatFitsIsGivenWhole) {
  EXPECT_THAT(SharePrompts({}, 8), IsEmpty());
  EXPECT_THAT(SharePrompts(Demands({3}), 8), ElementsAre(3));
  EXPECT_THAT(SharePrompts(Demands({5, 3}), 8), ElementsAre(5, 3));
  EXPECT_THAT(SharePrompts(Demands({5}), 0), ElementsAre(0));
}

TEST(PromptSharesTest, WhoIsDueFirstEndsAndNobodyProlongsTheStep) {
  EXPECT_THAT(SharePrompts(Demands({1200, 40, 300}), 512),
              ElementsAre(0, 40, 300));
  EXPECT_THAT(SharePrompts(Demands({1200, 40, 472}), 512),
              ElementsAre(0, 40, 472));
  EXPECT_THAT(SharePrompts(Demands({1200, 40, 473}), 512),
              ElementsAre(0, 40, 0));
}

TEST(PromptSharesTest, WhereNoneEndsTheFirstGetsAll) {
  EXPECT_THAT(SharePrompts(Demands({900, 500, 700}), 400),
              ElementsAre(0, 400, 0));
  std::vector<PromptDemand> demands = Demands({900, 500, 700});
  demands[2].due = 1;
  EXPECT_THAT(SharePrompts(demands, 400), ElementsAre(0, 0, 400));
  EXPECT_THAT(SharePrompts(Demands({2}), 1), ElementsAre(1));
}

TEST(PromptSharesTest, TheOldestLateOneGetsAnEighth) {
  std::vector<PromptDemand> demands = Demands({1200, 40, 300, 900});
  demands[0].late = demands[3].late = true;
  EXPECT_THAT(SharePrompts(demands, 512), ElementsAre(64, 40, 300, 0));
  // 40 + 300 are more than an eighth leaves of 380.
  EXPECT_THAT(SharePrompts(demands, 380), ElementsAre(47, 40, 0, 0));
  // The first of all is late itself.
  demands[1].late = true;
  demands[0].late = false;
  EXPECT_THAT(SharePrompts(demands, 100), ElementsAre(0, 40, 0, 0));
  demands[1].priority = -1;
  EXPECT_THAT(SharePrompts(demands, 400), ElementsAre(0, 0, 300, 50));
}

TEST(PromptSharesTest, HigherPriorityGoesBeforeAnyLength) {
  std::vector<PromptDemand> demands = Demands({10, 400, 20});
  demands[1].priority = 1;
  EXPECT_THAT(SharePrompts(demands, 100), ElementsAre(0, 100, 0));
  demands[1].wanted = 60;
  EXPECT_THAT(SharePrompts(demands, 100), ElementsAre(10, 60, 20));
  EXPECT_THAT(SharePrompts(demands, 85), ElementsAre(10, 60, 0));
}

TEST(PromptSharesTest, NobodyStandsStillForEver) {
  std::mt19937 rng(1);
  for (int round = 0; round < 200; ++round) {
    const auto up_to = [&](int n) {
      return std::uniform_int_distribution<int64_t>(1, n)(rng);
    };
    const int64_t budget = up_to(40);
    std::vector<PromptDemand> demands = Demands({up_to(300)});
    demands[0].late = true;
    demands[0].due = 1e9;
    int steps = 0;
    const int64_t first = demands[0].wanted;
    // Others, shorter ones mostly, come in every step.
    for (int64_t id = 1; demands[0].id == 0; ++id) {
      demands.push_back(Demands({up_to(20)})[0]);
      demands.back().id = id;
      demands.back().late = id % 2 == 0;
      const std::vector<int64_t> share = SharePrompts(demands, budget);
      ASSERT_LE(std::accumulate(share.begin(), share.end(), int64_t{0}),
                budget);
      ASSERT_GE(share[0],
                std::min(demands[0].wanted, std::max<int64_t>(1, budget / 8)));
      std::vector<PromptDemand> rest;
      for (size_t i = 0; i < demands.size(); ++i) {
        ASSERT_GE(share[i], 0);
        ASSERT_LE(share[i], demands[i].wanted);
        demands[i].wanted -= share[i];
        if (demands[i].wanted > 0) rest.push_back(demands[i]);
      }
      ++steps;
      demands = rest;
      if (demands.empty()) break;
    }
    const int64_t eighth = std::max<int64_t>(1, budget / 8);
    EXPECT_LE(steps, (first + eighth - 1) / eighth);
  }
}

}  // namespace
}  // namespace strata
