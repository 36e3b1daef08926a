#include "core/parallel/placement.h"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <functional>
#include <limits>
#include <vector>

#include "absl/status/status.h"
#include "core/base/random.h"
#include "core/testing/status_matchers.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace strata {
namespace {

using ::testing::DoubleEq;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

constexpr double kInfinity = std::numeric_limits<double>::infinity();

// Experts 0 to 3 on two GPUs of three slots; 0 and 1 have two replicas. With
// loads 8, 2, 3, 5 the GPUs bear 4 + 1 + 3 = 8 and 4 + 1 + 5 = 10.
const PlacementShape kShape = {/*num_experts=*/4, /*num_slots=*/6,
                               /*num_gpus=*/2};
const Placement kPlacement = {{0, 1, 2, 1, 0, 3}};
const std::vector<double> kLoad = {8, 2, 3, 5};

TEST(PlacementTest, AgreesWithAHandWorkedLayer) {
  EXPECT_THAT(ValidatePlacement(kShape, kPlacement), IsOk());
  EXPECT_THAT(ReplicaCounts(kShape, kPlacement), ElementsAre(2, 2, 1, 1));
  EXPECT_THAT(SlotsOfExperts(kShape, kPlacement),
              ElementsAre(ElementsAre(0, 4), ElementsAre(1, 3), ElementsAre(2),
                          ElementsAre(5)));
  EXPECT_THAT(GpuLoads(kShape, kPlacement, kLoad), ElementsAre(8, 10));
  EXPECT_DOUBLE_EQ(MaxOverMean(kShape, kPlacement, kLoad), 10.0 / 9);
  EXPECT_EQ(NumGpusWithDuplicates(kShape, kPlacement), 0);
}

TEST(PlacementTest, CountsAGpuWithDuplicatesOnce) {
  EXPECT_EQ(NumGpusWithDuplicates(kShape, {{0, 1, 2, 3, 3, 3}}), 1);
  EXPECT_EQ(NumGpusWithDuplicates(kShape, {{0, 1, 0, 2, 3, 3}}), 2);
}

TEST(PlacementTest, NoLoadIsBalanced) {
  EXPECT_EQ(MaxOverMean(kShape, kPlacement, std::vector<double>(4, 0.0)), 1);
  EXPECT_EQ(MaxOverMeanLowerBound(kShape, std::vector<double>(4, 0.0)), 1);
}

TEST(PlacementTest, MustDuplicateWhereAGpuHasMoreSlotsThanExpertsToFillThem) {
  EXPECT_FALSE(MustDuplicate({/*num_experts=*/3, /*num_slots=*/6, 2}));
  EXPECT_TRUE(MustDuplicate({/*num_experts=*/3, /*num_slots=*/8, 2}));
  // Two nodes of two experts each; GPUs of two slots, then of three.
  EXPECT_FALSE(MustDuplicate({4, 8, /*num_gpus=*/4, /*num_nodes=*/2, 2}));
  EXPECT_TRUE(MustDuplicate({4, 12, /*num_gpus=*/4, /*num_nodes=*/2, 2}));
  // With one group nodes do not matter.
  EXPECT_FALSE(MustDuplicate({4, 12, /*num_gpus=*/4, /*num_nodes=*/2, 1}));
}

TEST(PlacementTest, KnowsAPartedGroup) {
  const PlacementShape shape = {/*num_experts=*/4, /*num_slots=*/4,
                                /*num_gpus=*/2, /*num_nodes=*/2,
                                /*num_groups=*/2};

  EXPECT_TRUE(KeepsGroups(shape, {{3, 2, 0, 1}}));
  EXPECT_FALSE(KeepsGroups(shape, {{3, 1, 0, 2}}));
}

TEST(PlacementTest, KnowsANodeWithMoreThanItsShareOfGroups) {
  const PlacementShape shape = {/*num_experts=*/4, /*num_slots=*/6,
                                /*num_gpus=*/2, /*num_nodes=*/2,
                                /*num_groups=*/4};

  EXPECT_TRUE(KeepsGroups(shape, {{3, 2, 2, 0, 1, 1}}));
  EXPECT_FALSE(KeepsGroups(shape, {{3, 2, 1, 0, 0, 0}}));
}

// Counts by the greedy rule are held to trying them all.
TEST(MinMaxReplicaCountsTest, MakesTheHeaviestReplicaTheLightestPossible) {
  Random random(/*seed=*/1, /*stream=*/0);
  for (int repeat = 0; repeat < 50; ++repeat) {
    std::vector<double> load(4);
    for (double& x : load) x = random.UniformInt(30);
    const int num_slots = 4 + random.UniformInt(7);

    const std::vector<int32_t> count =
        MinMaxReplicaCounts(load, num_slots, num_slots);

    double heaviest = 0;
    int sum = 0;
    for (int e = 0; e < 4; ++e) {
      heaviest = std::max(heaviest, load[e] / count[e]);
      sum += count[e];
    }
    EXPECT_EQ(sum, num_slots);
    std::function<double(int, int)> best = [&](int e, int slots) {
      if (e == 3) return load[e] / slots;
      double lightest = kInfinity;
      for (int n = 1; n <= slots - (3 - e); ++n) {
        lightest =
            std::min(lightest, std::max(load[e] / n, best(e + 1, slots - n)));
      }
      return lightest;
    };
    EXPECT_DOUBLE_EQ(heaviest, best(0, num_slots));
  }
}

TEST(MinMaxReplicaCountsTest, BreaksTiesTowardsTheLowerExpert) {
  EXPECT_THAT(MinMaxReplicaCounts(std::vector<double>{3, 3, 3}, 5, 5),
              ElementsAre(2, 2, 1));
}

TEST(MinMaxReplicaCountsTest, KeepsTheLimitUntilSlotsWouldStayEmpty) {
  const std::vector<double> load = {100, 2, 1};

  EXPECT_THAT(MinMaxReplicaCounts(load, 5, /*max_replicas=*/2),
              ElementsAre(2, 2, 1));
  EXPECT_THAT(MinMaxReplicaCounts(load, 7, /*max_replicas=*/2),
              ElementsAre(3, 2, 2));
}

// Loads 12 and 4 on four GPUs of one slot: three replicas of 4 and one of 4.
// Loads 20 and 1: the lightest that 20 can be is 20 / 3, over a mean of 21 / 4.
TEST(MaxOverMeanLowerBoundTest, IsTheMeanOrTheHeaviestReplica) {
  const PlacementShape shape = {/*num_experts=*/2, /*num_slots=*/4,
                                /*num_gpus=*/4};

  EXPECT_THAT(MaxOverMeanLowerBound(shape, std::vector<double>{12, 4}),
              DoubleEq(1));
  EXPECT_THAT(MaxOverMeanLowerBound(shape, std::vector<double>{20, 1}),
              DoubleEq(20.0 / 3 / (21.0 / 4)));
}

TEST(ValidateShapeTest, NamesWhatDoesNotFit) {
  struct Case {
    PlacementShape shape;
    const char* message;
  };
  const Case cases[] = {
      {{0, 8, 2, 1, 1}, "num_experts is 0; want at least 1"},
      {{8, 8, 0, 1, 1}, "num_gpus is 0; want at least 1"},
      {{8, 8, 2, -1, 1}, "num_nodes is -1; want at least 1"},
      {{8, 8, 2, 1, 0}, "num_groups is 0; want at least 1"},
      {{8, 7, 1, 1, 1}, "7 slots are too few for 8 experts"},
      {{8, 9, 2, 1, 1}, "9 slots do not divide over 2 GPUs"},
      {{8, 9, 3, 2, 1}, "3 GPUs do not divide over 2 nodes"},
      {{8, 8, 2, 1, 3}, "8 experts do not divide into 3 groups"},
  };
  EXPECT_THAT(ValidateShape({8, 12, 4, 2, 4}), IsOk());
  for (const Case& c : cases) {
    EXPECT_THAT(
        ValidateShape(c.shape),
        StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr(c.message)));
  }
}

TEST(ValidateLoadTest, NamesTheExpertWhoseLoadIsNoLoad) {
  EXPECT_THAT(ValidateLoad(kShape, kLoad), IsOk());
  EXPECT_THAT(ValidateLoad(kShape, std::vector<double>{1, 2, 3}),
              StatusIs(absl::StatusCode::kInvalidArgument,
                       HasSubstr("3 loads for 4 experts")));
  for (const double bad : {-1.0, kInfinity, std::nan("")}) {
    EXPECT_THAT(ValidateLoad(kShape, std::vector<double>{1, 2, bad, 4}),
                StatusIs(absl::StatusCode::kInvalidArgument,
                         HasSubstr("the load of expert 2 is")));
  }
  EXPECT_THAT(ValidateLoad(kShape, std::vector<double>(4, 1e308)),
              StatusIs(absl::StatusCode::kInvalidArgument,
                       HasSubstr("the sum of 4 loads is inf")));
}

TEST(ValidatePlacementTest, NamesTheSlotOrExpertThatIsWrong) {
  EXPECT_THAT(ValidatePlacement(kShape, {{0, 1, 2, 3}}),
              StatusIs(absl::StatusCode::kInvalidArgument,
                       HasSubstr("a placement of 4 slots; want 6")));
  EXPECT_THAT(ValidatePlacement(kShape, {{0, 1, 2, 3, 4, 0}}),
              StatusIs(absl::StatusCode::kInvalidArgument,
                       HasSubstr("slot 4 holds expert 4; want 0 to 3")));
  EXPECT_THAT(ValidatePlacement(kShape, {{0, 1, 2, -1, 3, 0}}),
              StatusIs(absl::StatusCode::kInvalidArgument,
                       HasSubstr("slot 3 holds expert -1; want 0 to 3")));
  EXPECT_THAT(ValidatePlacement(kShape, {{0, 1, 2, 0, 1, 2}}),
              StatusIs(absl::StatusCode::kInvalidArgument,
                       HasSubstr("expert 3 has no slot")));
}

}  // namespace
}  // namespace strata
