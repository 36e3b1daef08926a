#include "cuda/kernels/few_rows_stream_plan.h"

#include <algorithm>
#include <cstdint>

#include "cuda/kernels/active_clusters.h"

namespace strata::gpu {
namespace {

int64_t Ceil(int64_t a, int64_t b) { return (a + b - 1) / b; }

// Microseconds on an H100, fitted to all splits and depths of five shapes: of a
// block's pairs of chunks of tiles, of those that a warp does one behind the
// other, of 1024 bytes of x, and to join what blocks and warps of a tile have.
constexpr double kPairCost = 0.174, kSerialCost = 0.876,
                 kKilobyteOfXCost = 0.009, kSplitCost = 0.075,
                 kDepthCost = 1.35;
// Warps share columns where no more than these have any: beyond, as measured,
// they only add what has to be joined.
constexpr int64_t kMaxSharingWarps = 8;

}  // namespace

StreamPlan PlanStream(const StreamWork& work,
                      const int (&active)[kNumClusterSizes]) {
  StreamPlan best;
  double least = -1;
  for (int size = 0; size < kNumClusterSizes; ++size) {
    const int splits = 1 << size;
    if (active[size] == 0 || splits > work.pairs) continue;
    if (work.only.splits > 0 && splits != work.only.splits) continue;
    for (int depth = 1; depth <= kMaxStreamDepth; depth *= 2) {
      if (int64_t{splits} * depth > work.pairs) continue;
      if (work.only.depth > 0 && depth != work.only.depth) continue;
      StreamPlan plan;
      plan.splits = splits;
      plan.depth = depth;
      const int64_t share = Ceil(work.pairs, splits);
      const int64_t of_x =
          work.rows * (share * work.pair_bytes_of_row + work.row_pad);
      const int tile_warps = kStreamWarps / depth;
      plan.bytes_of_sums = depth > 1 ? tile_warps * work.sum_bytes : 0;
      if (of_x + plan.bytes_of_sums > work.bytes) continue;
      plan.bytes_of_x = static_cast<int>(of_x);
      plan.bands = std::min<int64_t>(work.tiles, active[size]);
      const int64_t tiles = Ceil(work.tiles, plan.bands);
      if (work.only.depth == 0 && depth > 1 &&
          tiles * depth > kMaxSharingWarps) {
        continue;
      }
      const int64_t serial =
          Ceil(tiles, tile_warps) * Ceil(work.pairs, splits * depth);
      const double cost =
          std::max(kPairCost * static_cast<double>(tiles * share),
                   kSerialCost * static_cast<double>(serial)) +
          kKilobyteOfXCost * static_cast<double>(of_x) / 1024 +
          (splits > 1 ? kSplitCost * splits : 0) + (depth > 1 ? kDepthCost : 0);
      if (least < 0 || cost < least) {
        least = cost;
        best = plan;
      }
    }
  }
  return best;
}

}  // namespace strata::gpu
