#include "cuda/kernels/resident_plan.h"

#include <cstdint>

#include "cuda/kernels/active_clusters.h"

namespace strata::gpu {
namespace {

constexpr int64_t kRowsOfTile = 64;    // Of w, of a warpgroup.
constexpr int64_t kAlignBytes = 1024;  // Lost before stages begin.
// Of a multiprocessor with two blocks, for each.
constexpr int64_t kHalfBytes = 228 * 1024 / 2 - 1024 - 512;

int64_t Ceil(int64_t a, int64_t b) { return (a + b - 1) / b; }

// Microseconds on an H100, fitted to all splits and blocks of seven shapes (of
// F32 two) by up to 256 rows: a launch with its waits, and a block of 64
// columns, twice where a multiprocessor has two blocks. A megabyte that L2
// gives or sums need, of all blocks. It chooses the fastest but for 2048 x 2048
// by 128 rows, where that would be 3 % faster.
struct ResidentCost {
  int tiles, tokens, x_bytes;
  double launch, block;
};
constexpr ResidentCost kCosts[] = {{2, 64, 2, 2.2, 0.207},
                                   {4, 64, 2, 3.8, 0.247},
                                   {2, 128, 2, 4.95, 0.035},
                                   {2, 64, 4, 2.1, 0.337},
                                   {4, 64, 4, 4.0, 0.317}};
constexpr double kMegabyte = 0.095;

}  // namespace

ResidentPlan PlanResident(const ResidentWork& work,
                          const ResidentBlock (&blocks)[kNumResidentBlocks]) {
  ResidentPlan best;
  double least = -1;
  const ResidentChoice& only = work.only;
  const bool chosen = only.tiles > 0 || only.splits > 0 || only.tokens > 0;
  for (const ResidentBlock& block : blocks) {
    if (only.tiles > 0 && block.tiles != only.tiles) continue;
    if (only.tokens > 0 && block.tokens != only.tokens) continue;
    for (int size = 0; size < kNumClusterSizes; ++size) {
      ResidentPlan plan;
      plan.tiles = block.tiles;
      plan.tokens = block.tokens;
      plan.splits = 1 << size;
      if (only.splits > 0 && plan.splits != only.splits) continue;
      if (block.active[size] == 0 || plan.splits > work.stages) continue;
      plan.stages = Ceil(work.stages, plan.splits);
      const int64_t others = block.sums_bytes / plan.splits * (plan.splits - 1);
      const int64_t bytes =
          plan.stages * block.stage_bytes + others + kAlignBytes;
      if (plan.stages > kMaxResidentStages || bytes > kMaxResidentBytes) {
        continue;
      }
      plan.shared_bytes = static_cast<int>(bytes);
      plan.column_tiles = Ceil(work.n, kRowsOfTile * block.tiles);
      plan.token_tiles = Ceil(work.rows, block.tokens);
      const int64_t clusters = plan.column_tiles * plan.token_tiles;
      const bool twice = clusters > block.active[size];
      const int64_t at_once =
          block.active[size] * (bytes <= kHalfBytes ? block.at_once : 1);
      if (!chosen && clusters > at_once) continue;
      const int64_t columns = plan.stages * work.blocks_of_stage;
      const int64_t moved =
          plan.stages * block.stage_bytes + block.sums_bytes +
          // What a stage does not have of x, which is BF16 there.
          columns * 64 * block.tokens * (work.x_bytes - 2);
      double cost = kMegabyte * 1e-6 *
                    static_cast<double>(clusters * plan.splits * moved);
      for (const ResidentCost& c : kCosts) {
        if (c.tiles != block.tiles || c.tokens != block.tokens ||
            c.x_bytes != work.x_bytes) {
          continue;
        }
        cost +=
            c.launch + c.block * static_cast<double>(columns) * (twice ? 2 : 1);
      }
      if (least < 0 || cost < least) {
        least = cost;
        best = plan;
      }
    }
  }
  return best;
}

}  // namespace strata::gpu
