#include "cuda/kernels/resident_plan.h"

#include <cstdint>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace strata::gpu {
namespace {

using ::testing::Ge;
using ::testing::Le;

// Of INT4, and as many clusters as an H100 has of each size.
constexpr int64_t kStageColumns = 256;
ResidentBlock Block(int tiles, int tokens, Keeps keeps = Keeps::kAll) {
  ResidentBlock block;
  block.keeps = keeps;
  block.tiles = tiles;
  block.tokens = tokens;
  block.x_bytes = int64_t{128} * tokens;
  block.codes_bytes = int64_t{9} * tiles * 1024;
  block.sums_bytes = int64_t{256} * tokens * tiles;
  block.at_once = tokens <= 64 ? 4 / tiles : 1;
  const int active[kNumClusterSizes] = {132, 66, 30, 15};
  for (int i = 0; i < kNumClusterSizes; ++i) block.active[i] = active[i];
  return block;
}
const std::vector<ResidentBlock> kBlocks = {Block(2, 64), Block(4, 64)};
const std::vector<ResidentBlock> kBf16Blocks = {Block(2, 32),
                                                Block(3, 32),
                                                Block(4, 32),
                                                Block(2, 64),
                                                Block(4, 64),
                                                Block(2, 128),
                                                Block(3, 64, Keeps::kRing),
                                                Block(2, 128, Keeps::kRing)};

ResidentWork Work(int64_t rows, int64_t n, int64_t k) {
  ResidentWork work;
  work.rows = rows;
  work.n = n;
  work.stages = k / kStageColumns;
  work.blocks_of_stage = kStageColumns / 64;
  return work;
}

TEST(PlanResidentTest, HasSmallWeightsWhoseBlocksRunAtOnce) {
  EXPECT_THAT(PlanResident(Work(64, 1536, 2048), kBlocks).splits, Ge(1));
  EXPECT_THAT(PlanResident(Work(256, 1536, 2048), kBlocks).splits, Ge(1));
  EXPECT_EQ(PlanResident(Work(512, 1536, 2048), kBlocks).splits, 0);
  EXPECT_EQ(PlanResident(Work(64, 8192, 8192), kBlocks).splits, 0);
}

TEST(PlanResidentTest, TakesWiderBlocksOnlyWhereOthersDoNotRunAtOnce) {
  EXPECT_EQ(PlanResident(Work(64, 1536, 2048), kBlocks).tiles, 2);
  EXPECT_EQ(PlanResident(Work(256, 1536, 2048), kBlocks).tiles, 4);
}

TEST(PlanResidentTest, ASecondWeightHasTilesOfItsOwn) {
  ResidentWork work = Work(64, 1528, 2048);
  work.second_n = 136;

  const ResidentPlan plan = PlanResident(work, kBlocks);

  EXPECT_EQ(plan.tiles, 2);
  EXPECT_EQ(plan.column_tiles, 12 + 2);
  work.second_n = 8192;  // Then not all run at once.
  EXPECT_EQ(PlanResident(work, kBlocks).splits, 0);
}

TEST(PlanResidentTest, KeepsToAChoice) {
  ResidentWork work = Work(512, 4096, 2048);
  work.only = {4, 4};

  const ResidentPlan plan = PlanResident(work, kBlocks);

  EXPECT_EQ(plan.tiles, 4);
  EXPECT_EQ(plan.splits, 4);
  EXPECT_EQ(plan.tokens, 64);
  work.only = {2, 8, 128};
  EXPECT_EQ(PlanResident(work, kBf16Blocks).tokens, 128);
  EXPECT_EQ(PlanResident(work, kBlocks).splits, 0);  // Not of F32.
  work.only = {3, 0};  // There are no such blocks.
  EXPECT_EQ(PlanResident(work, kBlocks).splits, 0);
  work.only = {4, 1};  // Nor room for that.
  EXPECT_EQ(PlanResident(work, kBlocks).splits, 0);
}

ResidentPlan PlanOfBf16(int64_t rows, int64_t n, int64_t k) {
  ResidentWork work = Work(rows, n, k);
  work.x_bytes = 2;
  return PlanResident(work, kBf16Blocks);
}

TEST(PlanResidentTest, HasNarrowBlocksForUpTo32RowsOfBf16) {
  EXPECT_EQ(PlanOfBf16(32, 2048, 2048).tokens, 32);
  EXPECT_EQ(PlanOfBf16(33, 2048, 2048).tokens, 64);
  EXPECT_EQ(PlanOfBf16(16, 3072, 8192).splits, 0);  // Streamed, as all wider.
  EXPECT_GT(PlanOfBf16(17, 3072, 8192).splits, 0);

  // Of which some have room where wider ones have none; eight blocks of a
  // cluster send to the four that join eight rows each.
  const ResidentPlan plan = PlanOfBf16(32, 2048, 8192);

  EXPECT_EQ(plan.tokens, 32);
  EXPECT_EQ(plan.keeps, Keeps::kAll);
  EXPECT_EQ(plan.splits, 8);
  EXPECT_THAT(plan.shared_bytes, Le(kMaxResidentBytes));
  EXPECT_EQ(BlocksThatJoin(8, 4), 4);
  EXPECT_EQ(BytesToJoin(1024, 8, 32), 1024 / 4 * 7);
  EXPECT_EQ(BytesToJoin(1024, 8, 64), 1024 / 8 * 7);
}

TEST(PlanResidentTest, UsesPlacesAgainOfBf16WhereNotAllFindRoom) {
  EXPECT_EQ(PlanResident(Work(64, 4096, 4096), kBlocks).splits, 0);

  const ResidentPlan plan = PlanOfBf16(64, 4096, 4096);

  EXPECT_EQ(plan.keeps, Keeps::kRing);
  EXPECT_EQ(plan.splits, 4);
  EXPECT_THAT(plan.x_places, Le(plan.stages * kStageColumns / 64));
  EXPECT_THAT(plan.shared_bytes, Le(kMaxResidentBytes));
  EXPECT_EQ(PlanOfBf16(64, 1536, 2048).keeps, Keeps::kAll);
}

TEST(PlanResidentTest, LeavesFewRowsAndManyColumnsOfABlockToOthers) {
  EXPECT_EQ(PlanOfBf16(64, 8192, 8192).splits, 0);
  EXPECT_EQ(PlanOfBf16(65, 8192, 8192).tokens, 128);
  EXPECT_EQ(PlanOfBf16(65, 8192, 8192 + 256).splits, 0);
  EXPECT_EQ(PlanOfBf16(64, 4096, 14336).tiles, 3);
  EXPECT_EQ(PlanOfBf16(64, 4096, 14336 + 256).splits, 0);
}

TEST(PlanResidentTest, HasATileForAllRowsAndColumnsAndRoom) {
  int planned = 0;
  for (const int64_t rows : {17, 64, 65, 200, 256}) {
    for (const int64_t n : {1, 129, 768, 1536, 2048, 4096}) {
      for (const int64_t k : {256, 1024, 1280, 2048, 4096}) {
        SCOPED_TRACE(testing::Message() << rows << ", " << n << " x " << k);

        const ResidentPlan plan = PlanResident(Work(rows, n, k), kBlocks);

        if (plan.splits == 0) continue;
        ++planned;
        EXPECT_THAT(plan.token_tiles * plan.tokens, Ge(rows));
        EXPECT_THAT(plan.column_tiles * plan.tiles * 64, Ge(n));
        EXPECT_THAT(plan.stages * plan.splits * kStageColumns, Ge(k));
        EXPECT_THAT(plan.splits * kStageColumns, Le(k));
        EXPECT_THAT(plan.shared_bytes, Le(kMaxResidentBytes));
      }
    }
  }
  EXPECT_THAT(planned, Ge(75));
}

}  // namespace
}  // namespace strata::gpu
