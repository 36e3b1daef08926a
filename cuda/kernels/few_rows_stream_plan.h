// How a streamed product (few_rows_stream.cuh) is divided over the GPU.
//
//   splits  blocks of a cluster, each with a share of the columns of x
//   warps   of a block: 16, which fill a multiprocessor, or 8, of which two
//           blocks do, so that the next kernel's has its first weights on their
//           way beside this one's
//   bands   clusters, each with a band of tiles of 32 rows of w
//
// Columns are counted in pairs of chunks: 128 bytes of a row of w.

#ifndef CUDA_KERNELS_FEW_ROWS_STREAM_PLAN_H_
#define CUDA_KERNELS_FEW_ROWS_STREAM_PLAN_H_

#include <cstdint>

#include "cuda/kernels/active_clusters.h"

namespace strata::gpu {

constexpr int kStreamWarps = 16;     // Of a multiprocessor.
constexpr int kNumStreamBlocks = 2;  // Kinds of blocks.
// At once, of any kind; more than any GPU has multiprocessors.
constexpr int kMaxStreamBlocks = 160;

// What a plan is held to; 0: as is best.
struct StreamChoice {
  int splits = 0;  // 1, 2, 4 or 8.
  int warps = 0;   // 8 or 16.
  int bands = 0;   // Of which there are tiles.
};

struct StreamWork {
  int64_t tiles = 0;           // Of rows of w.
  int64_t pairs = 0;           // Of a row of w.
  int64_t row_tiles = 1;       // Of x.
  int rows = 1;                // Of x, of a tile at most.
  int pair_bytes_of_row = 0;   // Of a row of x, in BF16,
  int row_pad = 0;             // and what lies between two.
  int pair_bytes_of_tile = 0;  // Besides.
  StreamChoice only;
};

struct StreamBlock {
  int warps = 0;
  int bytes_of_x = 0;                 // Room for it.
  int active[kNumClusterSizes] = {};  // Clusters of each size that run at once.
};

struct StreamPlan {
  int splits = 1, warps = kStreamWarps;
  int64_t row_tiles = 1;
  int64_t bands = 0;  // 0: there is no plan, as x has no room.
  int64_t slots = 0;  // For sums of a tile, of a block.
  int bytes_of_x = 0;
};

// What a block with `share` pairs needs for x.
int64_t StreamBytesOfX(const StreamWork& work, int64_t share);

// `blocks`: of 8 warps, then of 16.
StreamPlan PlanStream(const StreamWork& work,
                      const StreamBlock (&blocks)[kNumStreamBlocks]);

}  // namespace strata::gpu

#endif  // CUDA_KERNELS_FEW_ROWS_STREAM_PLAN_H_
