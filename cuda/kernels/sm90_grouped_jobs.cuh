// The tiles of grouped products (sm90_grouped_product.cu), and which cluster of
// blocks computes which.
//
//   jobs      expert 0: 0 .. first_job[1] - 1, expert 1: ...
//     |
//     |  a fixed share: cluster c has c, c + clusters, ...
//     |  or claimed: whoever is about to end its job takes the next one
//     v
//   cluster   a tile for each of its blocks
//
// Alone both take as long. Where something else has a part of the GPU, some
// clusters begin when others have ended: a fixed share of theirs is left until
// then, and the product takes up to twice as long. Sums of a tile do not depend
// on who computes it.

#ifndef CUDA_KERNELS_SM90_GROUPED_JOBS_CUH_
#define CUDA_KERNELS_SM90_GROUPED_JOBS_CUH_

#include <cstdint>

#include "cuda/kernels/grouped_product.h"
#include "cuda/kernels/sm90.cuh"
#include "cuda/runtime/kernel.h"
#include "cuda_bf16.h"

namespace strata::gpu::grouped {

constexpr int kTileRows = 128, kTileColumns = 256, kTileDepth = 64;
constexpr int kHalf = 64;  // Rows of a warpgroup.
constexpr int kStages = 4;
// Blocks that share operands; 1 is right, too, and a third slower.
constexpr int kCluster = 2;
// Jobs that a cluster has claimed and not all of it has begun, at most: one a
// stage and a few, as loaders run ahead by so many.
constexpr int kToldJobs = kStages + 4;
// A loader asks for the next job so many stages before the end of its own: a
// claim takes some 1.5 us, and a stage 0.6.
constexpr int kAskAhead = 4;
constexpr int kThreads = 3 * kWarpgroup;
constexpr int kBoxBytes = 64 * kSwizzleColumns * 2;

enum class Product {
  kByRowsOfWeights,     // x w^T: the forward product.
  kSwiGlu,              // The same, then silu(first half) * second half.
  kByColumnsOfWeights,  // x w: the gradient of x.
  kOfRows,              // dy^T x, summed over rows: the gradient of w.
};

constexpr bool ByRowsOfWeights(Product product) {
  return product == Product::kByRowsOfWeights || product == Product::kSwiGlu;
}

struct Args {
  Extent rows;
  int num_experts = 0;
  int columns = 0;  // Of the result,
  int depth = 0;    // summed over: for the first two kinds.
  int height = 0;   // Rows of the result, an expert: of the third.
  const int32_t* offset = nullptr;
  void* result = nullptr;
  const float* keep = nullptr;  // Of the third, as GroupedWeightGradArgs
  bool skips_empty = false;     // have them.
  // The next job that no cluster has, and 0 between kernels; null: each has a
  // fixed share of them.
  uint32_t* claims = nullptr;
  bool b_ahead = false;  // As GroupedProductArgs' weights_ahead.
};

struct Shared {
  __nv_bfloat16 a[kStages][kTileRows * kTileDepth];
  __nv_bfloat16 b[kStages][kTileColumns * kTileDepth];
  uint64_t full[kStages], empty[kStages];
  // The cluster's jobs to come: each is told to all blocks once the loader of
  // the first has asked for it, and its place free when all have read it. Of
  // the barriers asked and read only the first block's counts.
  uint64_t asked, told[kToldJobs], read[kToldJobs];
  int32_t job[kToldJobs];
  int32_t first_job[kMaxGroupedExperts + 1];  // Of an expert; then of none.
  int32_t first_row[kMaxGroupedExperts + 1];  // Likewise.
};
constexpr size_t kSharedBytes = sizeof(Shared) + kSwizzleBytes;

#if STRATA_SM90A

__device__ __forceinline__ int Div(int a, int b) { return (a + b - 1) / b; }

struct Rows {
  int begin, end;
};
__device__ __forceinline__ Rows RowsOf(const Shared& shared, int e) {
  const int begin = shared.first_row[e];
  return {begin, max(shared.first_row[e + 1], begin)};
}

// A job is a tile for each block of the cluster. Where an expert has two tiles
// below each other they share b, the columns; a last one that is alone is
// followed by its neighbour to the right, and they share a.
__device__ __forceinline__ int JobsOf(int tiles_down, int tiles_across) {
  if constexpr (kCluster == 1) return tiles_down * tiles_across;
  return tiles_down / 2 * tiles_across + tiles_down % 2 * Div(tiles_across, 2);
}

struct Job {
  int expert = 0;
  int row = 0, column = 0;  // Of the tile, in the expert's part of the result.
  bool shares_b = false;
  Rows rows = {0, 0};  // The expert's.
};

// Who reads the numbers of jobs: one thread, or a warp for all of its threads.
// A block has one thread that loads, and two warpgroups.
enum class Reader { kThread, kWarp };
constexpr int kReaders = kCluster * (1 + 2 * kWarpgroup / 32);

template <Product kProduct, Reader kReader>
class Schedule {
 public:
  __device__ Schedule(const Args& args, Shared& shared)
      : args_(args),
        shared_(shared),
        tiles_across_(Div(args.columns, kTileColumns)),
        next_(static_cast<int>(blockIdx.x) / kCluster) {}

  // Jobs of expert e.
  static __device__ int Count(const Args& args, const Shared& shared, int e) {
    int height = args.height;
    const Rows of = RowsOf(shared, e);
    if constexpr (kProduct != Product::kOfRows) {
      height = of.end - of.begin;
    } else if (args.skips_empty && of.end == of.begin) {
      return 0;
    }
    return JobsOf(Div(height, kTileRows), Div(args.columns, kTileColumns));
  }

  __device__ bool Next(int rank, Job& job) {
    const int number = NextNumber();
    const int32_t* const first_job = shared_.first_job;
    if (number >= first_job[args_.num_experts]) return false;
    // Few rows have few jobs an expert: the next is of one far away.
    constexpr int kFar = 16;
    while (expert_ + kFar < args_.num_experts &&
           number >= first_job[expert_ + kFar]) {
      expert_ += kFar;
    }
    while (number >= first_job[expert_ + 1]) ++expert_;
    int index = number - first_job[expert_];
    job.expert = expert_;
    job.rows = RowsOf(shared_, expert_);
    const int height = kProduct == Product::kOfRows
                           ? args_.height
                           : job.rows.end - job.rows.begin;
    const int down = Div(height, kTileRows) / kCluster;
    job.shares_b = kCluster == 1 || index < down * tiles_across_;
    if (job.shares_b) {
      // Columns of up to kBand jobs, one band below the other, so that blocks
      // that run at a time read few of the operands' rows.
      const int band = index / (kBand * tiles_across_);
      index -= band * kBand * tiles_across_;
      const int in_band = min(kBand, down - band * kBand);
      const int y = band * kBand + index % in_band;
      job.row = (y * kCluster + rank) * kTileRows;
      job.column = index / in_band * kTileColumns;
    } else {
      job.row = down * kCluster * kTileRows;
      job.column =
          ((index - down * tiles_across_) * kCluster + rank) * kTileColumns;
    }
    return true;
  }

 private:
  static constexpr int kBand = 16 / kCluster;

  // Rises from call to call.
  __device__ int NextNumber() {
    if (args_.claims == nullptr) {
      const int number = next_;
      next_ += static_cast<int>(gridDim.x) / kCluster;
      return number;
    }
    Wait(&shared_.told[told_.stage], told_.phase);
    int number = 0;
    if (kReader == Reader::kThread || threadIdx.x % 32 == 0) {
      number = *static_cast<volatile int32_t*>(&shared_.job[told_.stage]);
    }
    if constexpr (kReader == Reader::kWarp) {
      number = __shfl_sync(0xffffffff, number, 0);
    }
    // The number is here. An arrival that made writes known as well would wait
    // for all that were made to the result.
    if (kReader == Reader::kThread || threadIdx.x % 32 == 0) {
      ArriveAt(&shared_.read[told_.stage], /*rank=*/0);
    }
    told_.Next();
    return number;
  }

  const Args& args_;
  Shared& shared_;
  const int tiles_across_;
  int next_;  // Of a fixed share.
  Ring<kToldJobs> told_;
  int expert_ = 0;
};

// One thread of a cluster, in its first block: claims a job whenever the loader
// asks, and tells all of the cluster. `number` is that of the first. So where
// jobs are long a cluster has none that it will not begin in a few us, and one
// that finds no room until others are done takes none from them. Of all
// clusters' claims the last finds nothing left, and lets the next kernel begin
// anew.
__device__ __forceinline__ void ClaimJobs(const Args& args, Shared& shared,
                                          int number) {
  const int jobs = shared.first_job[args.num_experts];
  const int clusters = static_cast<int>(gridDim.x) / kCluster;
  Ring<kToldJobs> told;
  for (uint32_t phase = 0;; phase ^= 1) {
    Wait(&shared.read[told.stage], told.phase ^ 1);
    for (int rank = 0; rank < kCluster; ++rank) {
      StoreArriving(&shared.job[told.stage], &shared.told[told.stage], rank,
                    number);
    }
    if (number >= jobs) break;
    told.Next();
    Wait(&shared.asked, phase);
    number = static_cast<int>(atomicAdd(args.claims, 1u));
  }
  if (number == jobs + clusters - 1) atomicExch(args.claims, 0u);
}

// first_row[e] for e up to the number of experts, by a block, of which the
// first warp makes barriers meanwhile and comes last: all are asked for at
// once, and no job waits for memory again.
__device__ __forceinline__ void BringRows(const Args& args, Shared& shared) {
  const int all = static_cast<int>(args.rows.Get());
  for (int e = static_cast<int>(threadIdx.x) - 32; e <= args.num_experts;
       e += kThreads - 32) {
    if (e >= 0) shared.first_row[e] = min(max(args.offset[e], 0), all);
  }
}

// first_job[e] likewise, by one warp, behind that.
template <Product kProduct>
__device__ void CountJobs(const Args& args, Shared& shared) {
  int32_t* const first_job = shared.first_job;
  const int lane = threadIdx.x % 32;
  int before = 0;
  for (int base = 0; base < args.num_experts; base += 32) {
    const int e = base + lane;
    int up_to =
        e < args.num_experts
            ? Schedule<kProduct, Reader::kThread>::Count(args, shared, e)
            : 0;
#pragma unroll
    for (int d = 1; d < 32; d *= 2) {
      const int left = __shfl_up_sync(0xffffffff, up_to, d);
      if (lane >= d) up_to += left;
    }
    if (e < args.num_experts) first_job[e + 1] = before + up_to;
    before += __shfl_sync(0xffffffff, up_to, 31);
  }
  if (lane == 0) first_job[0] = 0;
}

#endif  // STRATA_SM90A

}  // namespace strata::gpu::grouped

#endif  // CUDA_KERNELS_SM90_GROUPED_JOBS_CUH_
