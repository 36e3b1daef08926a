#include "cuda/kernels/few_rows_stream_plan.h"

#include <cstdint>
#include <utility>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace strata::gpu {
namespace {

using ::testing::Ge;
using ::testing::Le;
using ::testing::Pair;

// As many as an H100 has of each size.
constexpr StreamBlock kBlocks[kNumStreamBlocks] = {
    {8, 39 * 1024, {264, 132, 60, 30}}, {16, 81 * 1024, {132, 66, 30, 15}}};

// Of INT4.
StreamWork Work(int rows, int64_t n, int64_t k) {
  StreamWork work;
  work.tiles = (n + 31) / 32;
  work.pairs = k / 256;
  work.row_tiles = (rows + 31) / 32;
  work.rows = rows < 32 ? rows : 32;
  work.pair_bytes_of_row = 512;
  work.row_pad = 64;
  work.pair_bytes_of_tile = 2 * (rows <= 8 ? 8 : rows <= 16 ? 16 : 32) * 4;
  return work;
}

TEST(PlanStreamTest, AllOfItHasRoom) {
  for (const int rows : {1, 8, 16}) {
    for (const int64_t k : {2048, 8192, 16384}) {
      const StreamPlan plan = PlanStream(Work(rows, 8192, k), kBlocks);
      EXPECT_THAT(plan.bands, Ge(1));
      EXPECT_THAT(plan.bytes_of_x, Le(kBlocks[plan.warps / 16].bytes_of_x));
      EXPECT_THAT(plan.bytes_of_x, Ge(rows * k / plan.splits * 2));
    }
  }
}

TEST(PlanStreamTest, ThereIsNoneWhereXHasNoRoom) {
  EXPECT_EQ(PlanStream(Work(16, 8192, 65536), kBlocks).bands, 0);
  StreamWork work = Work(16, 8192, 8192);
  work.only.splits = 1;
  EXPECT_EQ(PlanStream(work, kBlocks).bands, 0);
}

// What was the fastest of all, or within 5 % of it, on an H100.
TEST(PlanStreamTest, ChoosesWhatWasMeasuredToBeFast) {
  const auto choice = [](int rows, int64_t n, int64_t k) {
    const StreamPlan plan = PlanStream(Work(rows, n, k), kBlocks);
    return std::pair<int, int>(plan.splits, plan.warps);
  };
  EXPECT_THAT(choice(1, 8192, 8192), Pair(1, 16));
  EXPECT_THAT(choice(4, 8192, 8192), Pair(4, 16));
  EXPECT_THAT(choice(8, 8192, 8192), Pair(4, 16));
  EXPECT_THAT(choice(16, 8192, 8192), Pair(4, 16));
  EXPECT_THAT(choice(1, 14336, 4096), Pair(2, 16));
  EXPECT_THAT(choice(8, 14336, 4096), Pair(4, 16));
  EXPECT_THAT(choice(16, 14336, 4096), Pair(4, 16));
  EXPECT_THAT(choice(8, 4096, 14336), Pair(8, 16));
  EXPECT_THAT(choice(1, 1536, 2048), Pair(1, 8));
  EXPECT_THAT(choice(8, 1536, 2048), Pair(8, 8));
  EXPECT_THAT(choice(16, 1536, 2048), Pair(8, 8));
  EXPECT_THAT(choice(64, 1536, 2048), Pair(8, 8));
}

TEST(PlanStreamTest, NeverSharesMorePairsThanThereAre) {
  const StreamPlan plan = PlanStream(Work(8, 32, 512), kBlocks);
  EXPECT_THAT(plan.splits, Le(2));
  EXPECT_EQ(plan.bands, 1);
}

TEST(PlanStreamTest, KeepsToTheChoice) {
  StreamWork work = Work(8, 8192, 8192);
  work.only = {2, 16};
  const StreamPlan plan = PlanStream(work, kBlocks);
  EXPECT_EQ(plan.splits, 2);
  EXPECT_EQ(plan.warps, 16);
  EXPECT_EQ(plan.bands, 66);
  // A tile of each warp's at most, and a part of another of all but one.
  EXPECT_EQ(plan.slots, 4 + 15);
}

TEST(PlanStreamTest, HasAsManyBlocksAsRunAtOnceOfAllTilesOfRows) {
  const StreamPlan plan = PlanStream(Work(64, 1536, 2048), kBlocks);
  EXPECT_EQ(plan.row_tiles, 2);
  EXPECT_EQ(plan.bands, 7);
}

}  // namespace
}  // namespace strata::gpu
