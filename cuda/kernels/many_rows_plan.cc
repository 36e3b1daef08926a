#include "cuda/kernels/many_rows_plan.h"

#include <algorithm>
#include <cstdint>

#include "cuda/kernels/active_clusters.h"

namespace strata::gpu {
namespace {

constexpr int64_t kColumns = 128;  // Of y, of a block.
constexpr int64_t kBlock = 64;     // Columns of x that come together.

int64_t Ceil(int64_t a, int64_t b) { return (a + b - 1) / b; }

// Cycles of 64 columns of a tile: what the tensor cores need, and where x is
// not shared what L2 does; for few tokens a share of device memory.
struct TileCost {
  int tokens;
  double alone, shared;
};
constexpr TileCost kTiles[] = {{8, 560, 560},
                               {16, 560, 560},
                               {64, 640, 640},
                               {128, 900, 900},
                               {256, 1200, 1150}};

// Of x that a block rounds itself, at most: all of it has room in the stages.
constexpr double kRoundedBlocks = 8;

// To begin and to end; for each token a store of its sums, and to join them.
constexpr double kRoundCost = 2000, kStoreCost = 6, kJoinCost = 1500,
                 kJoinTokenCost = 12, kJoinTokenCostOfEight = 16;

}  // namespace

ManyRowsPlan PlanManyRows(const ManyRowsWork& work,
                          const int (&active)[kNumClusterSizes]) {
  ManyRowsPlan best;
  double least = -1;
  const int64_t stages = Ceil(work.k, work.stage_columns);
  const int64_t experts = std::min(work.experts, work.rows);
  for (const TileCost& tile : kTiles) {
    if (work.only.tokens > 0 && tile.tokens != work.only.tokens) continue;
    for (int size = 0; size < kNumClusterSizes; ++size) {
      if (active[size] == 0) continue;
      for (int pairs = 1; pairs <= 2; ++pairs) {
        const int splits = (1 << size) / pairs;
        if (work.only.pairs > 0 && pairs != work.only.pairs) continue;
        if (work.only.splits > 0 && splits != work.only.splits) continue;
        if (splits < 1 || splits > stages || splits > tile.tokens) continue;
        if (pairs == 2 && tile.tokens < 64) continue;
        ManyRowsPlan plan;
        plan.tokens = tile.tokens;
        plan.splits = splits;
        plan.pairs = pairs;
        // Each expert may have a tile that is not full; half of one is likely.
        plan.token_tiles = Ceil(work.rows, tile.tokens) + experts;
        plan.column_units = Ceil(work.n, kColumns * pairs);
        const double tiles = static_cast<double>(plan.token_tiles) -
                             0.5 * static_cast<double>(experts);
        const int64_t units = std::max<int64_t>(
            1, static_cast<int64_t>(tiles) * plan.column_units);
        const int64_t rounds = Ceil(units, active[size]);
        // Clusters that share have a tile each, so that a second round begins
        // anew: of wide tiles 9 us.
        if (splits > 1 && rounds > 1 && tile.tokens >= 64 &&
            work.only.splits == 0) {
          continue;
        }
        const double blocks = static_cast<double>(Ceil(stages, splits) *
                                                  work.stage_columns / kBlock);
        const double join_token =
            splits == 8 ? kJoinTokenCostOfEight : kJoinTokenCost;
        const double cost =
            static_cast<double>(rounds) *
                (blocks * (pairs == 2 ? tile.shared : tile.alone) +
                 kStoreCost * tile.tokens) +
            kRoundCost +
            (splits > 1 ? kJoinCost + join_token * tile.tokens : 0);
        plan.clusters =
            splits > 1 ? plan.token_tiles * plan.column_units
                       : std::min<int64_t>(active[size], plan.token_tiles *
                                                             plan.column_units);
        plan.rounds = experts == 0 && pairs == 1 && tile.tokens <= 64 &&
                      plan.clusters == plan.token_tiles * plan.column_units &&
                      blocks <= kRoundedBlocks;
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
