// How a product with all of a block's share in shared memory
// (sm90_quant_resident.cuh) is divided over the GPU.
//
//   tiles    warpgroups with 64 rows of w each, 2 to 4: what a block has of y,
//   tokens   by 64 rows of x, up to 32 of them by 32, or of two tiles 128
//   splits   blocks of a cluster, each with a share of the columns of x
//
// Columns are counted in stages, 128 bytes of a row of w, and in blocks of 64.
// What a block's share does not find room for comes as others are read, but of
// x in F32.

#ifndef CUDA_KERNELS_RESIDENT_PLAN_H_
#define CUDA_KERNELS_RESIDENT_PLAN_H_

#include <cstdint>
#include <vector>

#include "cuda/kernels/active_clusters.h"

namespace strata::gpu {

constexpr int kMaxResidentStages = 8;          // Places for, of a block,
constexpr int kMaxResidentBlocks = 32;         // and for blocks of x.
constexpr int kMaxResidentBytes = 226 * 1024;  // Of shared memory, likewise.

// What of a block's share of the columns has a place of its own in shared
// memory: all, or, of x in BF16, as much as finds room, and places are used
// again.
enum class Keeps { kAny, kAll, kRing };

// What a plan is held to; 0: as is best.
struct ResidentChoice {
  int tiles = 0;
  int splits = 0;  // 1, 2, 4 or 8.
  int tokens = 0;  // 32, 64 or 128.
  Keeps keeps = Keeps::kAny;
};

// Of a cluster's blocks those that join sums, each eight rows of x at least.
constexpr int BlocksThatJoin(int splits, int eights) {
  return splits < eights ? splits : eights;
}
// What comes to one of them, of `bytes` that each block has of so many rows.
constexpr int64_t BytesToJoin(int64_t bytes, int splits, int tokens) {
  return bytes / BlocksThatJoin(splits, tokens / 8) * (splits - 1);
}

struct ResidentWork {
  int64_t n = 0;            // Rows of w,
  int64_t second_n = 0;     // of a second w by the same x, which has tiles of
                            // its own,
  int64_t rows = 0;         // and of x, at the bound.
  int64_t stages = 0;       // Of a row of w.
  int blocks_of_stage = 1;  // Of 64 columns.
  int x_bytes = 4;          // Of an element of x.
  ResidentChoice only;
};

struct ResidentBlock {
  int tiles = 0, tokens = 64;
  Keeps keeps = Keeps::kAll;
  int64_t x_bytes = 0;      // Of a block of x,
  int64_t codes_bytes = 0;  // of a stage of w,
  int64_t sums_bytes = 0;   // of what it has of y.
  int at_once = 1;  // Of a multiprocessor, if they have half of its memory.
  int active[kNumClusterSizes] = {};  // Clusters at once, a block each.
};

struct ResidentPlan {
  int tiles = 0, tokens = 64;
  Keeps keeps = Keeps::kAll;
  int splits = 0;      // 0: there is no plan.
  int64_t stages = 0;  // Of a block, at most.
  int code_places = 0, x_places = 0;
  int64_t column_tiles = 0, token_tiles = 0;
  int shared_bytes = 0;
};

// Only what runs all at once is planned, unless a choice says so.
ResidentPlan PlanResident(const ResidentWork& work,
                          const std::vector<ResidentBlock>& blocks);

}  // namespace strata::gpu

#endif  // CUDA_KERNELS_RESIDENT_PLAN_H_
