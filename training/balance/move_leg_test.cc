#include "training/balance/move_leg.h"

#include <algorithm>
#include <cstdint>
#include <random>
#include <vector>

#include "core/parallel/placement.h"
#include "core/testing/status_matchers.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace strata {
namespace {

using ::testing::ElementsAre;

PlacementShape Shape(int experts, int slots, int ranks) {
  PlacementShape shape;
  shape.num_experts = experts;
  shape.num_slots = slots;
  shape.num_gpus = ranks;
  return shape;
}

TEST(NextLegTest, IsWhatTheHeaderShows) {
  const PlacementShape shape = Shape(4, 6, 3);
  const Placement target = {{2, 1, 0, 3, 3, 2}};
  Placement present = {{0, 1, 2, 3, 3, 0}};
  const std::vector<std::vector<int32_t>> want = {
      {2, 1, 2, 3, 3, 0}, {2, 1, 0, 3, 3, 0}, {2, 1, 0, 3, 3, 2}};
  for (const std::vector<int32_t>& after : want) {
    const MoveLeg leg = NextLeg(shape, present, target, /*max_changed=*/1);
    EXPECT_EQ(leg.changed, 1);
    EXPECT_EQ(leg.sent, 1);
    present = After(present, leg);
    EXPECT_EQ(present.expert, after);
  }
}

TEST(NextLegTest, TwoThatAreAloneChangePlaces) {
  const MoveLeg leg =
      NextLeg(Shape(4, 4, 2), {{0, 1, 2, 3}}, {{3, 1, 2, 0}}, 1);
  EXPECT_THAT(leg.origin, ElementsAre(3, 1, 2, 0));
  EXPECT_EQ(leg.changed, 2);
  EXPECT_EQ(leg.sent, 2);
}

TEST(NextLegTest, WhatStaysOnItsRankIsNotSent) {
  const MoveLeg leg =
      NextLeg(Shape(4, 4, 2), {{0, 1, 2, 3}}, {{1, 0, 2, 3}}, 9);
  EXPECT_EQ(leg.changed, 2);
  EXPECT_EQ(leg.sent, 0);
}

Placement AnyPlacement(const PlacementShape& shape, std::mt19937& rng) {
  Placement placement;
  std::uniform_int_distribution<int> any(0, shape.num_experts - 1);
  for (int s = 0; s < shape.num_slots; ++s) {
    placement.expert.push_back(s < shape.num_experts ? s : any(rng));
  }
  std::shuffle(placement.expert.begin(), placement.expert.end(), rng);
  return placement;
}

// Every expert has a slot after every leg, and legs end at the target.
TEST(NextLegTest, LegsLeadFromAnyPlacementToAnyOther) {
  std::mt19937 rng(1);
  for (int trial = 0; trial < 200; ++trial) {
    const int ranks = 2 + trial % 3, spare = trial % 4;
    const int experts = ranks * (2 + trial % 5);
    const PlacementShape shape = Shape(experts, experts + ranks * spare, ranks);
    Placement present = AnyPlacement(shape, rng);
    const Placement target = AnyPlacement(shape, rng);
    const int64_t most = trial % 7;
    int legs = 0;
    while (!(present == target)) {
      const MoveLeg leg = NextLeg(shape, present, target, most);
      ASSERT_GT(leg.changed, 0);
      ASSERT_LE(leg.changed, std::max<int64_t>(most, 2));
      present = After(present, leg);
      ASSERT_THAT(ValidatePlacement(shape, present), IsOk());
      ASSERT_LE(++legs, shape.num_slots);
    }
    EXPECT_EQ(NextLeg(shape, present, target, most).changed, 0);
  }
}

}  // namespace
}  // namespace strata
