#include "cuda/kernels/many_rows_plan.h"

#include <cstdint>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace strata::gpu {
namespace {

using ::testing::Ge;
using ::testing::Le;

// As many as an H100 has of each size.
constexpr int kActive[kNumClusterSizes] = {132, 66, 32, 16};
constexpr int kColumns = 128;

ManyRowsWork Work(int64_t rows, int64_t n, int64_t k) {
  ManyRowsWork work;
  work.rows = rows;
  work.n = n;
  work.k = k;
  work.stage_columns = 256;
  return work;
}

TEST(PlanManyRowsTest, KeepsWeightsExactForSixteenRows) {
  EXPECT_THAT(PlanManyRows(Work(9, 8192, 8192), kActive).tokens, Le(16));
  EXPECT_THAT(PlanManyRows(Work(16, 1536, 2048), kActive).tokens, Le(16));
}

TEST(PlanManyRowsTest, SharesWhatIsSummedWhereTilesAreFew) {
  // 64 tiles, of 132 blocks at once.
  EXPECT_EQ(PlanManyRows(Work(16, 8192, 8192), kActive).splits, 2);
  EXPECT_EQ(PlanManyRows(Work(16, 132 * kColumns, 4096), kActive).splits, 1);
}

TEST(PlanManyRowsTest, SharesOfWideTilesRunAllAtOnce) {
  for (const int64_t rows : {32, 64, 128, 256, 1024}) {
    for (const int64_t n : {1536, 4096, 8192, 14336}) {
      SCOPED_TRACE(testing::Message() << rows << ", " << n);

      const ManyRowsPlan plan = PlanManyRows(Work(rows, n, 4096), kActive);

      if (plan.splits == 1 || plan.tokens < 64) continue;
      EXPECT_THAT(plan.clusters * plan.splits * plan.pairs, Le(kActive[0]));
    }
  }
}

TEST(PlanManyRowsTest, RoundsInPlaceOnlyWhatHasRoomInTheStages) {
  EXPECT_TRUE(PlanManyRows(Work(16, 1536, 2048), kActive).rounds);
  EXPECT_FALSE(PlanManyRows(Work(16, 8192, 8192), kActive).rounds);
}

TEST(PlanManyRowsTest, HasATileForAllRowsAndColumns) {
  for (const int64_t rows : {1, 17, 65, 129, 257, 1000, 5000}) {
    for (const int64_t n : {1, 129, 1536, 14336}) {
      for (const int64_t k : {37, 2048, 8192}) {
        SCOPED_TRACE(testing::Message() << rows << ", " << n << " x " << k);

        const ManyRowsPlan plan = PlanManyRows(Work(rows, n, k), kActive);

        EXPECT_THAT(plan.token_tiles * plan.tokens, Ge(rows));
        EXPECT_THAT(plan.column_units * plan.pairs * kColumns, Ge(n));
        const int64_t units = plan.token_tiles * plan.column_units;
        // Blocks that share what is summed over have one tile each.
        if (plan.splits > 1) {
          EXPECT_EQ(plan.clusters, units);
        }
        EXPECT_THAT(plan.clusters, Ge(1));
        EXPECT_THAT(plan.clusters, Le(units));
      }
    }
  }
}

TEST(PlanManyRowsTest, PlansNoClustersForAChoiceThatCannotBe) {
  ManyRowsWork pairs_of_few = Work(16, 8192, 8192);
  pairs_of_few.only = {/*tokens=*/16, /*splits=*/1, /*pairs=*/2};
  ManyRowsWork more_splits_than_stages = Work(64, 8192, 256);
  more_splits_than_stages.only = {/*tokens=*/64, /*splits=*/2, /*pairs=*/1};

  EXPECT_EQ(PlanManyRows(pairs_of_few, kActive).clusters, 0);
  EXPECT_EQ(PlanManyRows(more_splits_than_stages, kActive).clusters, 0);
}

}  // namespace
}  // namespace strata::gpu
