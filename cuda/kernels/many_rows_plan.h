// How a product of many rows by quantised weights is divided over the GPU.
//
//   tokens   rows of x of a tile
//   splits   blocks of a cluster that share what is summed over
//   pairs    2: blocks of a cluster that share rows of x, each with columns of
//            y of its own, so that the cluster brings them once
//
// A block of threads fills a multiprocessor and has 128 columns of y.

#ifndef CUDA_KERNELS_MANY_ROWS_PLAN_H_
#define CUDA_KERNELS_MANY_ROWS_PLAN_H_

#include <cstdint>

#include "cuda/kernels/active_clusters.h"

namespace strata::gpu {

// What a plan is held to; 0: as is best.
struct ManyRowsChoice {
  int tokens = 0;  // 8, 16, 64, 128 or 256.
  int splits = 0;  // 1, 2, 4 or 8.
  int pairs = 0;   // 1 or, of tiles of 64 tokens and more, 2.
};

struct ManyRowsWork {
  int64_t n = 0, k = 0;   // Rows of w, and their columns.
  int64_t rows = 0;       // Of x, at the bound.
  int64_t experts = 0;    // 0: dense.
  int stage_columns = 0;  // Of w, that come together.
  ManyRowsChoice only;
};

struct ManyRowsPlan {
  int tokens = 64, splits = 1, pairs = 1;
  bool rounds = false;  // Blocks round x themselves: a launch less.
  int64_t token_tiles = 1, column_units = 1;  // Tiles of `pairs` blocks.
  int64_t clusters = 0;                       // At once.
};

// `active`: clusters of each size that run at once. No clusters are planned if
// there is no plan of that choice.
ManyRowsPlan PlanManyRows(const ManyRowsWork& work,
                          const int (&active)[kNumClusterSizes]);

}  // namespace strata::gpu

#endif  // CUDA_KERNELS_MANY_ROWS_PLAN_H_
