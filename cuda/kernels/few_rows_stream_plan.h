// How a streamed product (few_rows_stream.cuh) is divided over the GPU.
//
//   splits  blocks of a cluster, each with a share of the columns of x
//   depth   warps of a block that share the columns of a tile; of its sixteen
//           the others have other tiles
//   bands   clusters, each with a band of tiles of 32 rows of w
//
// A block fills a multiprocessor. Columns are counted in pairs of chunks: 128
// bytes of a row of w.

#ifndef CUDA_KERNELS_FEW_ROWS_STREAM_PLAN_H_
#define CUDA_KERNELS_FEW_ROWS_STREAM_PLAN_H_

#include <cstdint>

#include "cuda/kernels/active_clusters.h"

namespace strata::gpu {

constexpr int kStreamWarps = 16;
constexpr int kMaxStreamDepth = 4;

// What a plan is held to; 0: as is best.
struct StreamChoice {
  int splits = 0;  // 1, 2, 4 or 8.
  int depth = 0;   // 1, 2 or 4.
};

struct StreamWork {
  int64_t tiles = 0;          // Of rows of w.
  int64_t pairs = 0;          // Of a row of w.
  int rows = 1;               // Of x, at most 16.
  int pair_bytes_of_row = 0;  // Of a row of x, in BF16,
  int row_pad = 0;            // and what lies between two.
  int sum_bytes = 0;          // Of a tile.
  int bytes = 0;              // Of shared memory for both.
  StreamChoice only;
};

struct StreamPlan {
  int splits = 1, depth = 1;
  int64_t bands = 0;   // 0: there is no plan, as x has no room.
  int bytes_of_x = 0;  // Sums lie behind them.
  int bytes_of_sums = 0;
};

// `active`: clusters of each size that run at once.
StreamPlan PlanStream(const StreamWork& work,
                      const int (&active)[kNumClusterSizes]);

}  // namespace strata::gpu

#endif  // CUDA_KERNELS_FEW_ROWS_STREAM_PLAN_H_
