#include "cuda/kernels/few_rows_plan.h"

#include <algorithm>
#include <cstdint>

namespace strata::gpu {
namespace {

int64_t Ceil(int64_t a, int64_t b) { return (a + b - 1) / b; }

// Asynchronous copies to elsewhere are served twice.
constexpr int64_t kCopyAlignment = 128;

// What a round of blocks takes beside its pairs, in pairs of a warp: to begin
// and to end; and what a further segment of x does.
constexpr double kRoundCost = 2, kSegmentCost = 1.5;

}  // namespace

FewRowsPlan PlanFewRows(const FewRowsWork& work,
                        const int (&one)[kNumClusterSizes],
                        const int (&two)[kNumClusterSizes]) {
  FewRowsPlan best;
  double least = -1;
  const double rows = std::min(work.rows, static_cast<double>(work.tile_rows));
  for (int i = 0; i < kNumClusterSizes; ++i) {
    if (i > 0 && one[i] == 0) continue;
    for (int row_warps = 1; row_warps <= kWarpsOfPlan; row_warps *= 2) {
      for (const int budget : {kMaxBytesOfX, kMaxBytesOfXOfTwo}) {
        FewRowsPlan plan;
        plan.splits = 1 << i;
        plan.row_warps = row_warps;
        plan.column_tiles = Ceil(work.n, int64_t{row_warps} * kWarpRows);
        const int depth_warps = kWarpsOfPlan / row_warps;
        const int64_t share = Ceil(work.pairs, plan.splits);
        const int64_t fit =
            std::max(1, (budget / work.rows_in_memory - kRowPad) /
                            work.pair_bytes_of_row);
        plan.segment = static_cast<int>(std::min(share, fit));
        if (plan.segment < share && plan.segment > depth_warps) {
          plan.segment = plan.segment / depth_warps * depth_warps;
        }
        plan.bytes_of_x =
            std::max(work.rows_in_memory *
                         (plan.segment * work.pair_bytes_of_row + kRowPad),
                     depth_warps * work.tile_rows * 4 *
                         (row_warps * kWarpRows + kSumPad));
        plan.bytes_of_x = static_cast<int>(
            Ceil(plan.bytes_of_x, kCopyAlignment) * kCopyAlignment);
        const int* const active =
            plan.bytes_of_x <= kMaxBytesOfXOfTwo ? two : one;
        const int64_t rounds =
            Ceil(plan.column_tiles * work.tiles, std::max(1, active[i]));
        const double of_x = 1 + work.cost_of_x * rows / (kWarpRows * row_warps);
        const double cost =
            static_cast<double>(rounds) *
            (static_cast<double>(Ceil(share, depth_warps)) * of_x + kRoundCost +
             kSegmentCost * static_cast<double>(Ceil(share, plan.segment) - 1));
        if (least < 0 || cost < least) {
          least = cost;
          best = plan;
        }
      }
    }
  }
  return best;
}

}  // namespace strata::gpu
