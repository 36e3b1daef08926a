#include "core/parallel/eplb.h"

#include <cstdint>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "core/base/random.h"
#include "core/parallel/placement.h"
#include "core/testing/status_matchers.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace strata {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

// The example of EPLB's description, two layers, with what its algorithm gives
// for both policies.
const std::vector<double> kLayer0 = {90, 132, 40, 61, 104, 165,
                                     39, 4,   73, 56, 183, 86};
const std::vector<double> kLayer1 = {20,  107, 104, 64, 19, 197,
                                     187, 157, 172, 86, 16, 27};

PlacementShape Example(int num_groups) {
  return {/*num_experts=*/12, /*num_slots=*/16, /*num_gpus=*/8,
          /*num_nodes=*/2, num_groups};
}

TEST(PlaceByEplbTest, GivesTheHierarchicalPolicysPublishedPlacement) {
  const PlacementShape shape = Example(/*num_groups=*/4);

  const absl::StatusOr<EplbPlacement> layer0 = PlaceByEplb(shape, kLayer0);
  const absl::StatusOr<EplbPlacement> layer1 = PlaceByEplb(shape, kLayer1);

  ASSERT_THAT(layer0, IsOk());
  EXPECT_THAT(layer0->placement.expert,
              ElementsAre(5, 6, 5, 7, 8, 4, 3, 4, 10, 9, 10, 2, 0, 1, 11, 1));
  EXPECT_THAT(ReplicaCounts(shape, layer0->placement),
              ElementsAre(1, 2, 1, 1, 2, 2, 1, 1, 1, 1, 2, 1));
  EXPECT_THAT(layer0->slots,
              ElementsAre(ElementsAre(12), ElementsAre(15, 13), ElementsAre(11),
                          ElementsAre(6), ElementsAre(7, 5), ElementsAre(0, 2),
                          ElementsAre(1), ElementsAre(3), ElementsAre(4),
                          ElementsAre(9), ElementsAre(8, 10), ElementsAre(14)));
  EXPECT_THAT(GpuLoads(shape, layer0->placement, kLayer0),
              ElementsAre(121.5, 86.5, 125, 113, 147.5, 131.5, 156, 152));
  ASSERT_THAT(layer1, IsOk());
  EXPECT_THAT(layer1->placement.expert,
              ElementsAre(7, 10, 6, 8, 6, 11, 8, 9, 2, 4, 5, 1, 5, 0, 3, 1));
  EXPECT_THAT(ReplicaCounts(shape, layer1->placement),
              ElementsAre(1, 2, 1, 1, 1, 2, 2, 1, 2, 1, 1, 1));
  EXPECT_THAT(layer1->slots,
              ElementsAre(ElementsAre(13), ElementsAre(15, 11), ElementsAre(8),
                          ElementsAre(14), ElementsAre(9), ElementsAre(10, 12),
                          ElementsAre(2, 4), ElementsAre(0), ElementsAre(6, 3),
                          ElementsAre(7), ElementsAre(1), ElementsAre(5)));
  EXPECT_THAT(GpuLoads(shape, layer1->placement, kLayer1),
              ElementsAre(173, 179.5, 120.5, 172, 123, 152, 118.5, 117.5));
}

TEST(PlaceByEplbTest, GivesTheGlobalPolicysPlacementWhereGroupsDoNotDivide) {
  const PlacementShape shape = Example(/*num_groups=*/3);

  const absl::StatusOr<EplbPlacement> layer0 = PlaceByEplb(shape, kLayer0);
  const absl::StatusOr<EplbPlacement> layer1 = PlaceByEplb(shape, kLayer1);

  ASSERT_THAT(layer0, IsOk());
  EXPECT_THAT(layer0->placement.expert,
              ElementsAre(10, 6, 10, 7, 0, 2, 11, 4, 5, 9, 5, 4, 8, 3, 1, 1));
  EXPECT_THAT(ReplicaCounts(shape, layer0->placement),
              ElementsAre(1, 2, 1, 1, 2, 2, 1, 1, 1, 1, 2, 1));
  EXPECT_THAT(GpuLoads(shape, layer0->placement, kLayer0),
              ElementsAre(130.5, 95.5, 130, 138, 138.5, 134.5, 134, 132));
  ASSERT_THAT(layer1, IsOk());
  EXPECT_THAT(layer1->placement.expert,
              ElementsAre(1, 10, 2, 4, 5, 11, 5, 0, 6, 7, 6, 3, 8, 8, 9, 7));
  EXPECT_THAT(ReplicaCounts(shape, layer1->placement),
              ElementsAre(1, 1, 1, 1, 1, 2, 2, 2, 2, 1, 1, 1));
  EXPECT_THAT(GpuLoads(shape, layer1->placement, kLayer1),
              ElementsAre(123, 123, 125.5, 118.5, 172, 157.5, 172, 164.5));
}

TEST(PlaceByEplbTest, LeavesExpertsInPlaceWhereEachGpuHasOneSlot) {
  const PlacementShape shape = {/*num_experts=*/3, /*num_slots=*/4,
                                /*num_gpus=*/4};

  const absl::StatusOr<EplbPlacement> placed =
      PlaceByEplb(shape, std::vector<double>{1, 5, 2});

  ASSERT_THAT(placed, IsOk());
  EXPECT_THAT(placed->placement.expert, ElementsAre(0, 1, 2, 1));
}

TEST(PlaceByEplbTest, GivesAllSpareSlotsToTheFirstExpertWithoutLoad) {
  const PlacementShape shape = {/*num_experts=*/3, /*num_slots=*/6,
                                /*num_gpus=*/2};

  const absl::StatusOr<EplbPlacement> placed =
      PlaceByEplb(shape, std::vector<double>{0, 0, 0});

  ASSERT_THAT(placed, IsOk());
  EXPECT_THAT(ReplicaCounts(shape, placed->placement), ElementsAre(4, 1, 1));
}

TEST(PlaceByEplbTest, PlacesEveryExpertAndKeepsGroupsOnRandomLoads) {
  Random random(/*seed=*/1, /*stream=*/0);
  const PlacementShape shapes[] = {
      {8, 8, 1}, {8, 12, 4, 2, 2}, {60, 64, 16, 4, 4}, {60, 72, 8, 2, 3}};
  for (const PlacementShape& shape : shapes) {
    for (int repeat = 0; repeat < 20; ++repeat) {
      std::vector<double> load(shape.num_experts);
      for (double& x : load) x = random.Uniform();

      const absl::StatusOr<EplbPlacement> placed = PlaceByEplb(shape, load);

      ASSERT_THAT(placed, IsOk());
      EXPECT_THAT(ValidatePlacement(shape, placed->placement), IsOk());
      EXPECT_TRUE(KeepsGroups(shape, placed->placement));
      for (int expert = 0; expert < shape.num_experts; ++expert) {
        for (const int32_t slot : placed->slots[expert]) {
          EXPECT_EQ(placed->placement.expert[slot], expert);
        }
      }
    }
  }
}

TEST(PlaceByEplbTest, RefusesFewerSlotsThanExperts) {
  EXPECT_THAT(PlaceByEplb({/*num_experts=*/3, /*num_slots=*/2}, {1, 1, 1}),
              StatusIs(absl::StatusCode::kInvalidArgument,
                       HasSubstr("2 slots are too few for 3 experts")));
}

TEST(PlaceByEplbTest, RefusesANegativeLoad) {
  EXPECT_THAT(PlaceByEplb({/*num_experts=*/2, /*num_slots=*/2}, {1, -1}),
              StatusIs(absl::StatusCode::kInvalidArgument,
                       HasSubstr("the load of expert 1 is -1")));
}

}  // namespace
}  // namespace strata
