#include "core/parallel/optimal_placement.h"

#include <algorithm>
#include <cstdint>
#include <functional>
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

std::vector<double> RandomLoad(const PlacementShape& shape, Random& random) {
  std::vector<double> load(shape.num_experts);
  for (double& x : load) x = random.UniformInt(20);
  return load;
}

// The least max/mean over every way to fill the slots.
double Exhaust(const PlacementShape& shape, const std::vector<double>& load,
               Duplicates duplicates) {
  double best = shape.num_gpus + 1;
  Placement placement = {std::vector<int32_t>(shape.num_slots)};
  std::function<void(int)> fill = [&](int slot) {
    if (slot == shape.num_slots) {
      if (!ValidatePlacement(shape, placement).ok()) return;
      if (!KeepsGroups(shape, placement)) return;
      if (duplicates == Duplicates::kForbidden &&
          NumGpusWithDuplicates(shape, placement) > 0) {
        return;
      }
      best = std::min(best, MaxOverMean(shape, placement, load));
      return;
    }
    for (int e = 0; e < shape.num_experts; ++e) {
      placement.expert[slot] = e;
      fill(slot + 1);
    }
  };
  fill(0);
  return best;
}

TEST(FindOptimalPlacementTest, AgreesWithTryingEveryPlacement) {
  Random random(/*seed=*/1, /*stream=*/0);
  const PlacementShape shapes[] = {
      {3, 6, 2}, {4, 6, 3}, {4, 4, 2}, {4, 6, 2, 2, 2}, {4, 8, 4, 2, 4}};
  for (const PlacementShape& shape : shapes) {
    for (int repeat = 0; repeat < 4; ++repeat) {
      const std::vector<double> load = RandomLoad(shape, random);
      for (const Duplicates duplicates :
           {Duplicates::kAllowed, Duplicates::kForbidden}) {
        if (duplicates == Duplicates::kForbidden && MustDuplicate(shape)) {
          continue;
        }

        const absl::StatusOr<Placement> optimum =
            FindOptimalPlacement(shape, load, duplicates);

        ASSERT_THAT(optimum, IsOk());
        EXPECT_THAT(ValidatePlacement(shape, *optimum), IsOk());
        EXPECT_TRUE(KeepsGroups(shape, *optimum));
        if (duplicates == Duplicates::kForbidden) {
          EXPECT_EQ(NumGpusWithDuplicates(shape, *optimum), 0);
        }
        // Sums of as many terms as a GPU has slots, in another order.
        EXPECT_NEAR(MaxOverMean(shape, *optimum, load),
                    Exhaust(shape, load, duplicates), 1e-12);
      }
    }
  }
}

// Loads 3, 10, 14 and 5 on two GPUs of three slots, mean 16. Three replicas of
// the first, two of them beside 14, put 1 + 1 + 14 = 16 and 1 + 10 + 5 = 16 on
// the GPUs. Without duplicates there are two replicas of two experts, one on
// each GPU, and the other two experts are apart: their difference, which is 2
// at least (3 and 5), halves to 1 above the mean.
TEST(FindOptimalPlacementTest, DuplicatesCanBeBetterThanTheBestWithout) {
  const PlacementShape shape = {/*num_experts=*/4, /*num_slots=*/6,
                                /*num_gpus=*/2};
  const std::vector<double> load = {3, 10, 14, 5};

  const absl::StatusOr<Placement> allowed =
      FindOptimalPlacement(shape, load, Duplicates::kAllowed);
  const absl::StatusOr<Placement> forbidden =
      FindOptimalPlacement(shape, load, Duplicates::kForbidden);

  ASSERT_THAT(allowed, IsOk());
  ASSERT_THAT(forbidden, IsOk());
  EXPECT_DOUBLE_EQ(MaxOverMean(shape, *allowed, load), 1);
  EXPECT_DOUBLE_EQ(MaxOverMean(shape, *forbidden, load), 17.0 / 16);
}

TEST(FindOptimalPlacementTest, PlacesExpertsWithoutLoad) {
  const PlacementShape shape = {/*num_experts=*/3, /*num_slots=*/4,
                                /*num_gpus=*/2};

  const absl::StatusOr<Placement> optimum =
      FindOptimalPlacement(shape, {0, 0, 0}, Duplicates::kForbidden);

  ASSERT_THAT(optimum, IsOk());
  EXPECT_THAT(ValidatePlacement(shape, *optimum), IsOk());
}

TEST(FindOptimalPlacementTest, RefusesWhatItCannotDo) {
  EXPECT_THAT(FindOptimalPlacement({8, 16, 4}, std::vector<double>(8, 1),
                                   Duplicates::kAllowed),
              StatusIs(absl::StatusCode::kInvalidArgument,
                       HasSubstr("16 slots are too many")));
  EXPECT_THAT(
      FindOptimalPlacement({16, 16, 2, 2, 16}, std::vector<double>(16, 1),
                           Duplicates::kAllowed),
      StatusIs(absl::StatusCode::kInvalidArgument,
               HasSubstr("16 groups are too many")));
  EXPECT_THAT(FindOptimalPlacement({2, 6, 2}, {1, 1}, Duplicates::kForbidden),
              StatusIs(absl::StatusCode::kInvalidArgument,
                       HasSubstr("a GPU has 3 slots")));
  EXPECT_THAT(
      FindOptimalPlacement({4, 3, 1}, {1, 1, 1, 1}, Duplicates::kAllowed),
      StatusIs(absl::StatusCode::kInvalidArgument,
               HasSubstr("3 slots are too few for 4 experts")));
}

}  // namespace
}  // namespace strata
