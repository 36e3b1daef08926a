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
constexpr int kActive[kNumClusterSizes] = {132, 66, 30, 15};
constexpr int kBytes = 80 * 1024;

// Of INT4.
StreamWork Work(int rows, int64_t n, int64_t k) {
  StreamWork work;
  work.tiles = (n + 31) / 32;
  work.pairs = k / 256;
  work.rows = rows;
  work.pair_bytes_of_row = 512;
  work.row_pad = 64;
  work.sum_bytes = 2048;
  work.bytes = kBytes;
  return work;
}

TEST(PlanStreamTest, AllOfItHasRoom) {
  for (const int rows : {1, 8, 16}) {
    for (const int64_t k : {2048, 8192, 16384}) {
      const StreamPlan plan = PlanStream(Work(rows, 8192, k), kActive);
      EXPECT_THAT(plan.bands, Ge(1));
      EXPECT_THAT(plan.bytes_of_x + plan.bytes_of_sums, Le(kBytes));
      EXPECT_THAT(plan.bytes_of_x, Ge(rows * k / plan.splits * 2));
    }
  }
}

TEST(PlanStreamTest, ThereIsNoneWhereXHasNoRoom) {
  EXPECT_EQ(PlanStream(Work(16, 8192, 65536), kActive).bands, 0);
  StreamWork work = Work(16, 8192, 8192);
  work.only.splits = 1;
  EXPECT_EQ(PlanStream(work, kActive).bands, 0);
}

// What was the fastest of all, or within 6 % of it, on an H100.
TEST(PlanStreamTest, ChoosesWhatWasMeasuredToBeFast) {
  const auto choice = [](int rows, int64_t n, int64_t k) {
    const StreamPlan plan = PlanStream(Work(rows, n, k), kActive);
    return std::pair<int, int>(plan.splits, plan.depth);
  };
  EXPECT_THAT(choice(4, 8192, 8192), Pair(2, 2));
  EXPECT_THAT(choice(8, 8192, 8192), Pair(4, 1));
  EXPECT_THAT(choice(16, 8192, 8192), Pair(4, 1));
  EXPECT_THAT(choice(1, 14336, 4096), Pair(2, 1));
  EXPECT_THAT(choice(16, 14336, 4096), Pair(2, 1));
  EXPECT_THAT(choice(8, 4096, 14336), Pair(8, 1));
  EXPECT_THAT(choice(8, 1536, 2048), Pair(8, 1));
}

TEST(PlanStreamTest, NeverSharesMorePairsThanThereAre) {
  const StreamPlan plan = PlanStream(Work(8, 32, 512), kActive);
  EXPECT_THAT(plan.splits * plan.depth, Le(2));
  EXPECT_EQ(plan.bands, 1);
}

TEST(PlanStreamTest, KeepsToTheChoice) {
  StreamWork work = Work(8, 8192, 8192);
  work.only = {2, 4};
  const StreamPlan plan = PlanStream(work, kActive);
  EXPECT_EQ(plan.splits, 2);
  EXPECT_EQ(plan.depth, 4);
  EXPECT_EQ(plan.bands, 66);
}

}  // namespace
}  // namespace strata::gpu
