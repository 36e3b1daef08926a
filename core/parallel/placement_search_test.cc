#include "core/parallel/placement_search.h"

#include <algorithm>
#include <cstdint>
#include <numeric>
#include <vector>

#include "core/base/random.h"
#include "core/parallel/placement.h"
#include "core/testing/status_matchers.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace strata {
namespace {

using ::testing::ElementsAre;

constexpr int64_t kBudget = 20'000;

const PlacementShape kShapes[] = {{8, 12, 4}, {16, 16, 4}, {20, 32, 8},
                                  {6, 24, 6}, {2, 12, 3},  {5, 6, 1}};

std::vector<double> RandomLoad(const PlacementShape& shape, Random& random) {
  std::vector<double> load(shape.num_experts);
  for (double& x : load) x = 1 + random.UniformInt(10);
  load[0] *= 1 + random.UniformInt(10);
  return load;
}

// Valid, and with duplicates: all spare slots are expert 0's.
Placement WithDuplicates(const PlacementShape& shape) {
  Placement placement = {std::vector<int32_t>(shape.num_slots, 0)};
  std::iota(placement.expert.begin(),
            placement.expert.begin() + shape.num_experts, 0);
  return placement;
}

double Max(const PlacementShape& shape, const Placement& placement,
           const std::vector<double>& load) {
  const std::vector<double> gpu_load = GpuLoads(shape, placement, load);
  return *std::max_element(gpu_load.begin(), gpu_load.end());
}

// What the search keeps up to date through moves agrees with the placement.
void ExpectSound(const PlacementShape& shape, const PlacementSearch& search,
                 const std::vector<double>& load) {
  const Placement placement = {search.expert()};
  EXPECT_THAT(ValidatePlacement(shape, placement), IsOk());
  // Some thousand moves of one rounding each.
  EXPECT_NEAR(search.MaxLoad(), Max(shape, placement, load),
              1e-11 * search.MaxLoad());
}

TEST(PlacementSearchTest, PacksValidlyAndWithoutAvoidableDuplicates) {
  Random random(/*seed=*/1, /*stream=*/0);
  for (const PlacementShape& shape : kShapes) {
    for (int repeat = 0; repeat < 20; ++repeat) {
      const std::vector<double> load = RandomLoad(shape, random);
      PlacementSearch search(load, shape.num_slots, shape.num_gpus);

      search.StartByPacking(/*target=*/0);

      ExpectSound(shape, search, load);
      if (!MustDuplicate(shape)) {
        EXPECT_EQ(NumGpusWithDuplicates(shape, {search.expert()}), 0);
      }
    }
  }
}

TEST(PlacementSearchTest, RemovesDuplicates) {
  Random random(/*seed=*/2, /*stream=*/0);
  for (const PlacementShape& shape : kShapes) {
    if (MustDuplicate(shape)) continue;
    const std::vector<double> load = RandomLoad(shape, random);
    PlacementSearch search(load, shape.num_slots, shape.num_gpus);
    search.Start(WithDuplicates(shape).expert);

    search.RemoveDuplicates();

    ExpectSound(shape, search, load);
    EXPECT_EQ(NumGpusWithDuplicates(shape, {search.expert()}), 0);
  }
}

TEST(PlacementSearchTest, ImprovesWithoutMakingDuplicates) {
  Random random(/*seed=*/3, /*stream=*/0);
  for (const PlacementShape& shape : kShapes) {
    for (const bool spare_moves : {false, true}) {
      const std::vector<double> load = RandomLoad(shape, random);
      PlacementSearch search(load, shape.num_slots, shape.num_gpus);
      search.Start(WithDuplicates(shape).expert);
      search.RemoveDuplicates();
      const double before = search.MaxLoad();
      int64_t budget = kBudget;

      search.Improve(/*target=*/0, spare_moves, budget);

      ExpectSound(shape, search, load);
      EXPECT_LE(search.MaxLoad(), before * (1 + 1e-12));
      if (!MustDuplicate(shape)) {
        EXPECT_EQ(NumGpusWithDuplicates(shape, {search.expert()}), 0);
      }
    }
  }
}

// GPUs bear 6 + 4 and 1 + 1; no swap makes the maximum less than 7 = 6 + 1.
TEST(PlacementSearchTest, SwapsWhereThatIsBest) {
  const std::vector<double> load = {6, 4, 1, 1};
  PlacementSearch search(load, /*num_slots=*/4, /*num_gpus=*/2);
  search.Start({0, 1, 2, 3});
  int64_t budget = 1;  // For one descent and no kick.

  search.Improve(/*target=*/0, /*spare_moves=*/false, budget);

  EXPECT_DOUBLE_EQ(search.MaxLoad(), 7);
}

// Expert 1's second replica gives way to one of expert 0, which is too heavy
// for any swap to help.
TEST(PlacementSearchTest, OverwritesAReplicaThatIsOfLittleUse) {
  const std::vector<double> load = {12, 2};
  PlacementSearch search(load, /*num_slots=*/3, /*num_gpus=*/3);
  search.Start({0, 1, 1});
  int64_t budget = 100;

  search.Improve(/*target=*/6, /*spare_moves=*/false, budget);

  EXPECT_DOUBLE_EQ(search.MaxLoad(), 6);
  EXPECT_EQ(std::count(search.expert().begin(), search.expert().end(), 0), 2);
}

TEST(PlacementSearchTest, StopsAtItsTarget) {
  const std::vector<double> load = {6, 4, 1, 1};
  PlacementSearch search(load, /*num_slots=*/4, /*num_gpus=*/2);
  search.Start({0, 1, 2, 3});
  int64_t budget = kBudget;

  search.Improve(/*target=*/10, /*spare_moves=*/false, budget);

  EXPECT_THAT(search.expert(), ElementsAre(0, 1, 2, 3));
  EXPECT_EQ(budget, kBudget);
}

TEST(PlacementSearchTest, ReturnsWhatTheTargetLetsReturn) {
  const std::vector<double> load = {6, 4, 1, 1};
  const std::vector<int32_t> present = {0, 1, 2, 3};
  PlacementSearch search(load, /*num_slots=*/4, /*num_gpus=*/2);

  search.Start({2, 0, 1, 3});  // 7 and 5, slots of a GPU in another order.
  search.ReturnTo(present, /*target=*/7);
  EXPECT_THAT(search.expert(), ElementsAre(0, 2, 1, 3));

  search.ReturnTo(present, /*target=*/10);
  EXPECT_THAT(search.expert(), ElementsAre(0, 1, 2, 3));
}

}  // namespace
}  // namespace strata
