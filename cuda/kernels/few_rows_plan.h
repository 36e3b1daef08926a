// How a product of few rows by quantised weights is divided over the GPU.
//
//   splits     blocks of a cluster, each with a share of the columns of x
//   row_warps  warps of a block that have 32 rows of w each; the others of its
//              eight have other columns
//   segment    how much of x a block has in shared memory at a time
//
// Columns are counted in pairs of chunks: 128 bytes of a row of w.

#ifndef CUDA_KERNELS_FEW_ROWS_PLAN_H_
#define CUDA_KERNELS_FEW_ROWS_PLAN_H_

#include <cstdint>

#include "cuda/kernels/active_clusters.h"

namespace strata::gpu {

constexpr int kWarpsOfPlan = 8;
constexpr int kWarpRows = 32;  // Of w: two products below each other.
// Sums begin 4 banks apart, so that threads of a warp do not meet.
constexpr int kSumPad = 4;
// Rows of x begin so many bytes apart beyond what they have.
constexpr int kRowPad = 64;
// x in shared memory at most, beside what is on its way (74 KB): so that two
// blocks fit into a multiprocessor, and one.
constexpr int kMaxBytesOfXOfTwo = 38 * 1024;
constexpr int kMaxBytesOfX = 146 * 1024;

struct FewRowsWork {
  int64_t n = 0;              // Rows of w.
  int64_t pairs = 0;          // Of a row of w.
  int64_t tiles = 0;          // Of rows of x.
  double rows = 1;            // Of x, of a tile on average.
  int tile_rows = 8;          // At most.
  int rows_in_memory = 8;     // Of a tile, at most.
  int pair_bytes_of_row = 0;  // Of a row of x.
  // A row of x costs so many times one of w to bring: BF16's two bytes a column
  // are four times those of INT4, but come from L2.
  double cost_of_x = 2;
};

struct FewRowsPlan {
  int splits = 1, row_warps = 1, segment = 1;
  int64_t column_tiles = 1;
  int bytes_of_x = 0;  // Or of sums, which lie there later.
};

// `one` and `two`: clusters of each size that run at once with so much shared
// memory that one block, or two, fit into a multiprocessor; of 1 block 0: no
// GPU with clusters.
FewRowsPlan PlanFewRows(const FewRowsWork& work,
                        const int (&one)[kNumClusterSizes],
                        const int (&two)[kNumClusterSizes]);

}  // namespace strata::gpu

#endif  // CUDA_KERNELS_FEW_ROWS_PLAN_H_
