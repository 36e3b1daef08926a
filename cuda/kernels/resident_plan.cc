#include "cuda/kernels/resident_plan.h"

#include <algorithm>
#include <cstdint>
#include <vector>

#include "cuda/kernels/active_clusters.h"

namespace strata::gpu {
namespace {

constexpr int64_t kRowsOfTile = 64;    // Of w, of a warpgroup.
constexpr int64_t kAlignBytes = 1024;  // Lost before stages begin.
// Of a multiprocessor with two blocks, for each.
constexpr int64_t kHalfBytes = 228 * 1024 / 2 - 1024 - 768;
// Places of a ring: for stages of codes at most, and for blocks of x at least.
constexpr int64_t kRingStages = 3, kMinRingBlocks = 4;

int64_t Ceil(int64_t a, int64_t b) { return (a + b - 1) / b; }

// Microseconds on an H100, fitted to all splits and blocks of seven shapes (of
// F32 two, of rings eleven), most by up to 256 rows: a launch with its waits, a
// block of 64 columns, twice where a multiprocessor has two blocks, and a
// megabyte that L2 gives or sums need, of all blocks. It chooses the fastest,
// or what is up to 3 % slower; of up to 32 rows, whose blocks are narrower, of
// ten shapes on an H200 up to 1 %, but for two, 7 and 11 %. With fewer rows or
// more columns a block the kernel for many rows is as fast as a ring, or
// faster.
struct ResidentCost {
  int tiles, tokens;
  Keeps keeps;
  int x_bytes;
  double launch, block, megabyte = 0.095;
  int min_rows = 0, max_columns = kMaxResidentBlocks;
};
constexpr ResidentCost kCosts[] = {
    {2, 32, Keeps::kAll, 2, 2.1, 0.19},
    {3, 32, Keeps::kAll, 2, 2.8, 0.2},
    {4, 32, Keeps::kAll, 2, 3.6, 0.22},
    {2, 64, Keeps::kAll, 2, 2.2, 0.207},
    {4, 64, Keeps::kAll, 2, 3.8, 0.247},
    {2, 128, Keeps::kAll, 2, 4.95, 0.035, 0.095, 17},
    {3, 64, Keeps::kRing, 2, 3.28, 0.324, 0.056, 17, 56},
    {2, 128, Keeps::kRing, 2, 4.12, 0.29, 0.0404, 65, 64},
    {2, 64, Keeps::kAll, 4, 2.1, 0.337},
    {4, 64, Keeps::kAll, 4, 4.0, 0.317}};

// The room that a plan has in shared memory; false if it has none.
bool FindRoom(const ResidentWork& work, const ResidentBlock& block,
              ResidentPlan& plan) {
  const int64_t others =
      BytesToJoin(block.sums_bytes, plan.splits, block.tokens);
  const int64_t room = kMaxResidentBytes - kAlignBytes - others;
  const int64_t blocks = plan.stages * work.blocks_of_stage;
  int64_t stages = plan.stages, places = blocks;
  if (block.keeps == Keeps::kRing) {
    stages = std::min(stages, kRingStages);
    places = std::min({blocks, int64_t{kMaxResidentBlocks},
                       (room - stages * block.codes_bytes) / block.x_bytes});
    if (places < std::min(blocks, kMinRingBlocks)) return false;
  } else if (stages > kMaxResidentStages ||
             stages * block.codes_bytes + places * block.x_bytes > room) {
    return false;
  }
  plan.code_places = static_cast<int>(stages);
  plan.x_places = static_cast<int>(places);
  plan.shared_bytes =
      static_cast<int>(kAlignBytes + others + stages * block.codes_bytes +
                       places * block.x_bytes);
  return true;
}

// Microseconds of a plan, of which `at_once` clusters run with a block each;
// below 0: it is not for so few rows, or so many columns.
double CostOf(const ResidentWork& work, const ResidentBlock& block,
              const ResidentPlan& plan, int64_t at_once) {
  const int64_t clusters = plan.column_tiles * plan.token_tiles;
  const int64_t columns = plan.stages * work.blocks_of_stage;
  // x of a block of columns in F32 is twice as long as in BF16.
  const int64_t moved = plan.stages * block.codes_bytes + block.sums_bytes +
                        columns * block.x_bytes * work.x_bytes / 2;
  for (const ResidentCost& c : kCosts) {
    if (c.tiles != block.tiles || c.tokens != block.tokens ||
        c.keeps != block.keeps || c.x_bytes != work.x_bytes) {
      continue;
    }
    // Narrow blocks were fitted to a tile of rows alone.
    if (c.tokens == 32 && work.rows > c.tokens) return -1;
    if (work.rows < c.min_rows || columns > c.max_columns) return -1;
    const int twice = clusters > at_once ? 2 : 1;
    return c.launch + c.block * static_cast<double>(columns * twice) +
           c.megabyte * 1e-6 *
               static_cast<double>(clusters * plan.splits * moved);
  }
  return -1;
}

}  // namespace

ResidentPlan PlanResident(const ResidentWork& work,
                          const std::vector<ResidentBlock>& blocks) {
  ResidentPlan best;
  double least = -1;
  const ResidentChoice& only = work.only;
  const bool chosen = only.tiles > 0 || only.splits > 0 || only.tokens > 0;
  for (const ResidentBlock& block : blocks) {
    if (only.tiles > 0 && block.tiles != only.tiles) continue;
    if (only.tokens > 0 && block.tokens != only.tokens) continue;
    if (only.keeps != Keeps::kAny && block.keeps != only.keeps) continue;
    for (int size = 0; size < kNumClusterSizes; ++size) {
      ResidentPlan plan;
      plan.tiles = block.tiles;
      plan.tokens = block.tokens;
      plan.keeps = block.keeps;
      plan.splits = 1 << size;
      if (only.splits > 0 && plan.splits != only.splits) continue;
      if (block.active[size] == 0 || plan.splits > work.stages) continue;
      plan.stages = Ceil(work.stages, plan.splits);
      if (!FindRoom(work, block, plan)) continue;
      plan.column_tiles = Ceil(work.n, kRowsOfTile * block.tiles) +
                          Ceil(work.second_n, kRowsOfTile * block.tiles);
      plan.token_tiles = Ceil(work.rows, block.tokens);
      const int64_t active = block.active[size];
      const int64_t at_once =
          active * (plan.shared_bytes <= kHalfBytes ? block.at_once : 1);
      if (!chosen && plan.column_tiles * plan.token_tiles > at_once) continue;
      const double cost = CostOf(work, block, plan, active);
      if (cost < 0 && !chosen) continue;
      if (least < 0 || cost < least) {
        least = cost;
        best = plan;
      }
    }
  }
  return best;
}

}  // namespace strata::gpu
