// How a product with all of a block's share in shared memory
// (sm90_quant_resident.cuh) is divided over the GPU.
//
//   tiles    warpgroups with 64 rows of w each, 2 or 4: what a block has of y,
//   tokens   by 64 rows of x, or of two tiles 128
//   splits   blocks of a cluster, each with a share of the columns of x
//
// Columns are counted in stages: 128 bytes of a row of w.

#ifndef CUDA_KERNELS_RESIDENT_PLAN_H_
#define CUDA_KERNELS_RESIDENT_PLAN_H_

#include <cstdint>

#include "cuda/kernels/active_clusters.h"

namespace strata::gpu {

constexpr int kNumResidentBlocks = 3;
constexpr int kMaxResidentStages = 8;          // Of a block.
constexpr int kMaxResidentBytes = 226 * 1024;  // Of shared memory, likewise.

// What a plan is held to; 0: as is best.
struct ResidentChoice {
  int tiles = 0;
  int splits = 0;  // 1, 2, 4 or 8.
  int tokens = 0;  // 64 or 128.
};

struct ResidentWork {
  int64_t n = 0;            // Rows of w,
  int64_t rows = 0;         // and of x, at the bound.
  int64_t stages = 0;       // Of a row of w.
  int blocks_of_stage = 1;  // Of 64 columns.
  int x_bytes = 4;          // Of an element of x.
  ResidentChoice only;
};

struct ResidentBlock {
  int tiles = 0, tokens = 64;
  int64_t stage_bytes = 0, sums_bytes = 0;
  int at_once = 1;  // Of a multiprocessor, if they have half of its memory.
  int active[kNumClusterSizes] = {};  // Clusters at once, a block each.
};

struct ResidentPlan {
  int tiles = 0, tokens = 64;
  int splits = 0;      // 0: there is no plan.
  int64_t stages = 0;  // Of a block, at most.
  int64_t column_tiles = 0, token_tiles = 0;
  int shared_bytes = 0;
};

// Only what runs all at once is planned, unless a choice says so.
ResidentPlan PlanResident(const ResidentWork& work,
                          const ResidentBlock (&blocks)[kNumResidentBlocks]);

}  // namespace strata::gpu

#endif  // CUDA_KERNELS_RESIDENT_PLAN_H_
