#include "cuda/kernels/few_rows_stream_plan.h"

#include <algorithm>
#include <cstdint>

#include "cuda/kernels/active_clusters.h"

namespace strata::gpu {
namespace {

int64_t Ceil(int64_t a, int64_t b) { return (a + b - 1) / b; }

// Microseconds on an H100, fitted to all splits and kinds of blocks of four
// shapes: of a block's pairs of chunks, of 1024 bytes of x, and to join what
// the blocks of a cluster have; more rows than 8 join more.
struct StreamCost {
  double pair, kilobyte_of_x;
  double split[kNumClusterSizes];
};
constexpr StreamCost kFull = {0.13, 0.06, {0, 0.6, 0.3, 1.8}};
constexpr StreamCost kHalf = {0.13, 0.04, {0, 1.6, 1.5, 0.8}};
constexpr double kMoreRows = 1.4;

}  // namespace

int64_t StreamBytesOfX(const StreamWork& work, int64_t share) {
  return work.rows * (share * work.pair_bytes_of_row + work.row_pad) +
         share * work.pair_bytes_of_tile;
}

StreamPlan PlanStream(const StreamWork& work,
                      const StreamBlock (&blocks)[kNumStreamBlocks]) {
  StreamPlan best;
  double least = -1;
  for (const StreamBlock& block : blocks) {
    if (work.only.warps > 0 && block.warps != work.only.warps) continue;
    for (int size = 0; size < kNumClusterSizes; ++size) {
      const int splits = 1 << size;
      if (block.active[size] == 0 || splits > work.pairs) continue;
      if (work.only.splits > 0 && splits != work.only.splits) continue;
      StreamPlan plan;
      plan.splits = splits;
      plan.warps = block.warps;
      plan.row_tiles = work.row_tiles;
      const int64_t share = Ceil(work.pairs, splits);
      const int64_t of_x = StreamBytesOfX(work, share);
      if (of_x > block.bytes_of_x) continue;
      plan.bytes_of_x = static_cast<int>(of_x);
      // One a multiprocessor.
      const int64_t at_once = std::min(
          blocks[kNumStreamBlocks - 1].active[size], kMaxStreamBlocks / splits);
      plan.bands =
          std::min(work.tiles, std::max<int64_t>(1, at_once / work.row_tiles));
      if (work.only.bands > 0) {
        plan.bands = std::min<int64_t>(work.tiles, work.only.bands);
      }
      const int64_t tiles = Ceil(work.tiles, plan.bands);
      const bool half = block.warps < kStreamWarps;
      // Half the warps are faster where each has a pair at most: the next
      // kernel's block finds the other half of the multiprocessor.
      if (half && work.only.warps == 0 && tiles * share > block.warps) continue;
      if (!half && best.warps < kStreamWarps) continue;
      plan.slots = tiles + block.warps - 1;
      const StreamCost& costs = half ? kHalf : kFull;
      const double cost =
          costs.pair * static_cast<double>(tiles * share) +
          costs.kilobyte_of_x * static_cast<double>(of_x) / 1024 +
          costs.split[size] * (half || work.rows <= 8 ? 1 : kMoreRows);
      if (least < 0 || cost < least) {
        least = cost;
        best = plan;
      }
    }
  }
  return best;
}

}  // namespace strata::gpu
