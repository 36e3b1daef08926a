#include "core/parallel/migration.h"

#include <algorithm>
#include <cstdint>
#include <functional>
#include <numeric>
#include <utility>
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

using ::testing::HasSubstr;
using ::testing::IsEmpty;

// Two nodes of two GPUs of two slots.
const PlacementShape kShape = {/*num_experts=*/4, /*num_slots=*/8,
                               /*num_gpus=*/4, /*num_nodes=*/2};

Placement RandomPlacement(const PlacementShape& shape, Random& random) {
  Placement placement;
  for (int slot = 0; slot < shape.num_slots; ++slot) {
    placement.expert.push_back(
        slot < shape.num_experts ? slot : random.UniformInt(shape.num_experts));
  }
  for (int slot = shape.num_slots - 1; slot > 0; --slot) {
    std::swap(placement.expert[slot],
              placement.expert[random.UniformInt(slot + 1)]);
  }
  return placement;
}

int NumKept(const Placement& a, const Placement& b) {
  return std::inner_product(
      a.expert.begin(), a.expert.end(), b.expert.begin(), 0, std::plus<>(),
      [](int32_t x, int32_t y) { return x == y ? 1 : 0; });
}

TEST(PlanMigrationTest, CopiesEachChangedSlotFromTheNearestReplica) {
  const Placement from = {{0, 1, 2, 3, 0, 1, 2, 3}};
  // Slot 1 takes 2, which slots 2 (same node) and 6 hold; slot 7 takes 0, which
  // slot 4 (same node) and slot 0 hold.
  const Placement to = {{0, 2, 2, 3, 0, 1, 2, 0}};

  const absl::StatusOr<MigrationPlan> plan =
      PlanMigration(kShape, from, to, /*bytes_per_expert=*/10);

  ASSERT_THAT(plan, IsOk());
  ASSERT_EQ(plan->copies.size(), 2);
  EXPECT_EQ(plan->copies[0].slot, 1);
  EXPECT_EQ(plan->copies[0].from_expert, 1);
  EXPECT_EQ(plan->copies[0].to_expert, 2);
  EXPECT_EQ(plan->copies[0].source_slot, 2);
  EXPECT_EQ(plan->copies[1].slot, 7);
  EXPECT_EQ(plan->copies[1].source_slot, 4);
  EXPECT_EQ(plan->bytes_moved, 20);
  EXPECT_EQ(plan->bytes_between_nodes, 0);
}

TEST(PlanMigrationTest, CountsTheBytesThatLeaveTheirNode) {
  const Placement from = {{0, 0, 1, 1, 2, 2, 3, 3}};
  const Placement to = {{0, 1, 1, 2, 2, 2, 3, 3}};

  const absl::StatusOr<MigrationPlan> plan =
      PlanMigration(kShape, from, to, /*bytes_per_expert=*/10);

  ASSERT_THAT(plan, IsOk());
  EXPECT_EQ(plan->bytes_moved, 20);
  EXPECT_EQ(plan->bytes_between_nodes, 10);
}

TEST(PlanMigrationTest, SpreadsReadsOverReplicasThatAreAsNear) {
  // Two slots of the other node each take expert 0, held by slots 0 and 2.
  const Placement from = {{0, 1, 0, 1, 2, 2, 3, 3}};
  const Placement to = {{0, 1, 0, 1, 2, 0, 3, 0}};

  const absl::StatusOr<MigrationPlan> plan =
      PlanMigration(kShape, from, to, /*bytes_per_expert=*/1);

  ASSERT_THAT(plan, IsOk());
  ASSERT_EQ(plan->copies.size(), 2);
  EXPECT_EQ(plan->copies[0].source_slot, 0);
  EXPECT_EQ(plan->copies[1].source_slot, 2);
}

TEST(PlanMigrationTest, LeadsFromOnePlacementToTheOtherWhenCarriedOut) {
  Random random(/*seed=*/1, /*stream=*/0);
  for (int repeat = 0; repeat < 50; ++repeat) {
    const Placement from = RandomPlacement(kShape, random);
    const Placement to = RandomPlacement(kShape, random);

    const absl::StatusOr<MigrationPlan> plan =
        PlanMigration(kShape, from, to, /*bytes_per_expert=*/1);

    ASSERT_THAT(plan, IsOk());
    // The slots hold what their expert's weights are: here, its number.
    std::vector<int32_t> weights = from.expert;
    for (const SlotCopy& copy : plan->copies) {
      EXPECT_EQ(from.expert[copy.slot], copy.from_expert);
      weights[copy.slot] = from.expert[copy.source_slot];
    }
    EXPECT_EQ(weights, to.expert);
    EXPECT_EQ(plan->bytes_moved, kShape.num_slots - NumKept(from, to));
  }
}

TEST(PlanMigrationTest, IsEmptyBetweenEqualPlacements) {
  const Placement placement = {{0, 1, 2, 3, 0, 1, 2, 3}};

  const absl::StatusOr<MigrationPlan> plan =
      PlanMigration(kShape, placement, placement, /*bytes_per_expert=*/1);

  ASSERT_THAT(plan, IsOk());
  EXPECT_THAT(plan->copies, IsEmpty());
}

TEST(PlanMigrationTest, RefusesAPlacementOfAnotherSize) {
  const Placement placement = {{0, 1, 2, 3, 0, 1, 2, 3}};

  EXPECT_THAT(PlanMigration(kShape, {{0, 1, 2, 3}}, placement, 1),
              StatusIs(absl::StatusCode::kInvalidArgument,
                       HasSubstr("a placement of 4 slots; want 8")));
  EXPECT_THAT(PlanMigration(kShape, placement, {{0, 1, 2, 3}}, 1),
              StatusIs(absl::StatusCode::kInvalidArgument,
                       HasSubstr("a placement of 4 slots; want 8")));
  EXPECT_THAT(PlanMigration(kShape, placement, placement, -1),
              StatusIs(absl::StatusCode::kInvalidArgument,
                       HasSubstr("bytes_per_expert is -1")));
}

TEST(RelabelToMatchTest, FindsTheSamePlacementUnderOtherNames) {
  const Placement present = {{0, 1, 2, 3, 0, 2, 1, 3}};

  EXPECT_EQ(RelabelToMatch(kShape, present, {{3, 1, 2, 0, 3, 2, 1, 0}}),
            present);
}

TEST(RelabelToMatchTest, KeepsTheLoadsAndAtLeastAsManySlots) {
  Random random(/*seed=*/1, /*stream=*/0);
  const std::vector<double> load = {7, 5, 3, 1};
  for (int repeat = 0; repeat < 50; ++repeat) {
    const Placement present = RandomPlacement(kShape, random);
    const Placement placement = RandomPlacement(kShape, random);

    const Placement relabelled = RelabelToMatch(kShape, present, placement);

    std::vector<double> before = GpuLoads(kShape, placement, load);
    std::vector<double> after = GpuLoads(kShape, relabelled, load);
    std::sort(before.begin(), before.end());
    std::sort(after.begin(), after.end());
    EXPECT_EQ(after, before);
    EXPECT_GE(NumKept(present, relabelled), NumKept(present, placement));
  }
}

TEST(RelabelToMatchTest, ExchangesNodesAsAWholeWhereGroupsBelongToThem) {
  const PlacementShape shape = {/*num_experts=*/4, /*num_slots=*/8,
                                /*num_gpus=*/4, /*num_nodes=*/2,
                                /*num_groups=*/2};
  const Placement present = {{0, 1, 0, 1, 2, 3, 2, 3}};

  const Placement relabelled =
      RelabelToMatch(shape, present, {{3, 3, 2, 3, 1, 0, 1, 0}});

  // All but the third 3.
  EXPECT_EQ(NumKept(present, relabelled), 7);
  EXPECT_TRUE(KeepsGroups(shape, relabelled));
}

}  // namespace
}  // namespace strata
