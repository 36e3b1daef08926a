#include <algorithm>
#include <cstdint>
#include <type_traits>

#include "cuda/kernels/ahead.cuh"
#include "cuda/kernels/grouped_product.h"
#include "cuda/kernels/sm90.cuh"
#include "cuda/kernels/sm90_product.cuh"
#include "cuda/kernels/store_rows.cuh"
#include "cuda/kernels/tensor_map.h"
#include "cuda/runtime/kernel.h"
#include "cuda_bf16.h"

// A block a multiprocessor, which works on tile after tile of 128 x 256:
//
//   warpgroup 0     one thread loads: 64 of what is summed over at a time, of
//                   both operands, into the next of four stages
//   warpgroup 1, 2  multiply, 64 rows each, and write the result
//
// Bound by the tensor cores, and close to it by what L2 gives: a tile reads 48
// KB for 1024 cycles of products. So two blocks of a cluster work on tiles that
// share an operand, and each loads half of it for both.

namespace strata::gpu {
namespace {

constexpr int kTileRows = 128, kTileColumns = 256, kTileDepth = 64;
constexpr int kHalf = 64;  // Rows of a warpgroup.
constexpr int kStages = 4;
// Blocks that share operands; 1 is right, too, and a third slower.
constexpr int kCluster = 2;
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
};

struct Shared {
  __nv_bfloat16 a[kStages][kTileRows * kTileDepth];
  __nv_bfloat16 b[kStages][kTileColumns * kTileDepth];
  uint64_t full[kStages], empty[kStages];
  int32_t first_job[kMaxGroupedExperts + 1];  // Of an expert; then of none.
};
constexpr size_t kSharedBytes = sizeof(Shared) + kSwizzleBytes;

#if STRATA_SM90A

__device__ __forceinline__ int Div(int a, int b) { return (a + b - 1) / b; }

struct Rows {
  int begin, end;
};
__device__ __forceinline__ Rows RowsOf(const Args& args, int64_t rows, int e) {
  const int all = static_cast<int>(rows);
  const int begin = min(max(args.offset[e], 0), all);
  return {begin, min(max(args.offset[e + 1], begin), all)};
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

template <Product kProduct>
class Schedule {
 public:
  __device__ Schedule(const Args& args, const int32_t* first_job)
      : args_(args),
        first_job_(first_job),
        total_rows_(args.rows.Get()),
        tiles_across_(Div(args.columns, kTileColumns)),
        next_(static_cast<int>(blockIdx.x) / kCluster) {}

  // Jobs of expert e.
  static __device__ int Count(const Args& args, int64_t rows, int e) {
    int height = args.height;
    const Rows of = RowsOf(args, rows, e);
    if constexpr (kProduct != Product::kOfRows) {
      height = of.end - of.begin;
    } else if (args.skips_empty && of.end == of.begin) {
      return 0;
    }
    return JobsOf(Div(height, kTileRows), Div(args.columns, kTileColumns));
  }

  __device__ bool Next(int rank, Job& job) {
    if (next_ >= first_job_[args_.num_experts]) return false;
    while (next_ >= first_job_[expert_ + 1]) ++expert_;
    int index = next_ - first_job_[expert_];
    next_ += static_cast<int>(gridDim.x) / kCluster;
    job.expert = expert_;
    job.rows = RowsOf(args_, total_rows_, expert_);
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

  const Args& args_;
  const int32_t* const first_job_;
  const int64_t total_rows_;
  const int tiles_across_;
  int next_;
  int expert_ = 0;
};

// first_job[e] for e up to the number of experts, by one warp.
template <Product kProduct>
__device__ void CountJobs(const Args& args, int32_t* first_job) {
  const int lane = threadIdx.x % 32;
  const int64_t rows = args.rows.Get();
  int before = 0;
  for (int base = 0; base < args.num_experts; base += 32) {
    const int e = base + lane;
    int up_to =
        e < args.num_experts ? Schedule<kProduct>::Count(args, rows, e) : 0;
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

template <Product kProduct>
__device__ __forceinline__ int DepthOf(const Args& args, const Job& job) {
  return kProduct == Product::kOfRows ? job.rows.end - job.rows.begin
                                      : args.depth;
}

// How many boxes of 64 rows a tile's a has; there is one at least.
template <Product kProduct>
__device__ __forceinline__ int BoxesOfA(const Job& job) {
  if constexpr (kProduct == Product::kOfRows) return 2;
  return job.rows.end - job.rows.begin - job.row > kHalf ? 2 : 1;
}

// The first lane's, so that the compiler knows the warp to be of one mind:
// products in a branch that might diverge are issued one by one.
__device__ __forceinline__ int Uniform(int x) {
  return __shfl_sync(0xffffffff, x, 0);
}

// One thread: keeps the stages full.
template <Product kProduct>
__device__ void Load(const Args& args, Shared& shared, const CUtensorMap* map_a,
                     const CUtensorMap* map_b, int rank) {
  Schedule<kProduct> schedule(args, shared.first_job);
  constexpr bool kRowsOfB = ByRowsOfWeights(kProduct);
  constexpr uint16_t kAll = (1 << kCluster) - 1;
  Ring<kStages> ring;
  for (Job job; schedule.Next(rank, job);) {
    const int depth = DepthOf<kProduct>(args, job);
    const int boxes_a = BoxesOfA<kProduct>(job);
    for (int p = 0; p < depth; p += kTileDepth, ring.Next()) {
      Wait(&shared.empty[ring.stage], ring.phase ^ 1);
      uint64_t* const full = &shared.full[ring.stage];
      ArriveExpecting(full, (boxes_a + 4) * kBoxBytes);
      // Of both operands boxes of 64 outer indices by 64 to sum over.
      const auto load = [&](const CUtensorMap* map, char* to, bool shared_load,
                            int x, int y, int z) {
        if (shared_load) {
          LoadBoxToAll(map, to, full, x, y, z, kAll);
        } else {
          LoadBox(map, to, full, x, y, z);
        }
      };
      char* const a = reinterpret_cast<char*>(shared.a[ring.stage]);
      char* const b = reinterpret_cast<char*>(shared.b[ring.stage]);
      const bool both = kCluster > 1;
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        if (i >= boxes_a) break;
        if (both && !job.shares_b && i % kCluster != rank) continue;
        const bool to_all = both && !job.shares_b;
        if constexpr (kProduct == Product::kOfRows) {
          load(map_a, a + i * kBoxBytes, to_all, job.row + i * kHalf,
               job.rows.begin + p, 0);
        } else {
          load(map_a, a + i * kBoxBytes, to_all, p,
               job.rows.begin + job.row + i * kHalf, 0);
        }
      }
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        if (both && job.shares_b && i % kCluster != rank) continue;
        const bool to_all = both && job.shares_b;
        int column = job.column + i * 64;
        if constexpr (kProduct == Product::kSwiGlu) {
          // 128 columns of the first half, and the same of the second.
          column = job.column / 2 + i % 2 * 64 + i / 2 * (args.columns / 2);
        }
        if constexpr (kRowsOfB) {
          load(map_b, b + i * kBoxBytes, to_all, p, column, job.expert);
        } else if constexpr (kProduct == Product::kByColumnsOfWeights) {
          load(map_b, b + i * kBoxBytes, to_all, column, p, job.expert);
        } else {
          load(map_b, b + i * kBoxBytes, to_all, column, job.rows.begin + p, 0);
        }
      }
    }
  }
}

// Zeros for rows that are summed over, from `first` on: they are another
// expert's. By both multiplying warpgroups.
__device__ void ZeroRows(Shared& shared, int stage, int first) {
  const int thread = threadIdx.x - kWarpgroup;
  const int pieces = (kTileDepth - first) * 8;  // Of 16 bytes, in a box.
  for (int box = 0; box < 6; ++box) {
    char* const at =
        (box < 2 ? reinterpret_cast<char*>(shared.a[stage]) + box * kBoxBytes
                 : reinterpret_cast<char*>(shared.b[stage]) +
                       (box - 2) * kBoxBytes) +
        first * kSwizzleColumns * 2;
    for (int i = thread; i < pieces; i += 2 * kWarpgroup) {
      reinterpret_cast<uint4*>(at)[i] = {0, 0, 0, 0};
    }
  }
  FenceSharedStores();
  SyncThreads(1, 2 * kWarpgroup);
}

// d += keep * the rows at `from`, laid out as StoreRows() (store_rows.cuh) has
// them.
template <int n, typename Y>
__device__ __forceinline__ void AddRowsAt(float (&d)[n / 2], float keep,
                                          int rows, int columns, const Y* from,
                                          int64_t pitch) {
  const int thread = threadIdx.x % kWarpgroup, lane = thread % 4;
  const int first = thread / 32 * 16 + thread % 32 / 4;
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const int row = first + 8 * half;
    const Y* const line = from + row * pitch;
    const auto add = [&](int g, float2 old) {
      float* const at = d + 4 * g + 2 * half;
      at[0] = fmaf(keep, old.x, at[0]);
      at[1] = fmaf(keep, old.y, at[1]);
    };
    if constexpr (sizeof(Y) == 4) {
#pragma unroll
      for (int g = 0; g < n / 8; ++g) {
        if (row >= rows || g * 8 >= columns) continue;
        add(g, *reinterpret_cast<const float2*>(line + g * 8 + lane * 2));
      }
    } else {
#pragma unroll
      for (int g = 0; g < n / 8; g += 4) {
        uint32_t word[4] = {};
        if (row < rows && (g + lane) * 8 < columns) {
          const uint4 old =
              *reinterpret_cast<const uint4*>(line + (g + lane) * 8);
          word[0] = old.x, word[1] = old.y, word[2] = old.z, word[3] = old.w;
        }
        Transpose4(word);
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          add(g + i, {__uint_as_float(word[i] << 16),
                      __uint_as_float(word[i] & 0xffff0000)});
        }
      }
    }
  }
}

template <Product kProduct, typename Y>
__device__ void MultiplyTiles(const Args& args, Shared& shared, int rank) {
  Schedule<kProduct> schedule(args, shared.first_job);
  constexpr bool kRowsSummed = kProduct == Product::kOfRows;
  constexpr OperandOrder kOrderA = kRowsSummed ? kOuter : kInner;
  constexpr OperandOrder kOrderB = ByRowsOfWeights(kProduct) ? kInner : kOuter;
  const int group = Uniform(static_cast<int>(threadIdx.x) / kWarpgroup) - 1;
  // One thread says for its warpgroup that a stage is free, to all blocks that
  // write into it.
  const auto release = [&](int stage) {
    if (threadIdx.x % kWarpgroup < kCluster) {
      if constexpr (kCluster == 1) {
        Arrive(&shared.empty[stage]);
      } else {
        ArriveAt(&shared.empty[stage], threadIdx.x % kWarpgroup);
      }
    }
  };
  Ring<kStages> ring;
  float sum[128];
  for (Job job; schedule.Next(rank, job);) {
    const int depth = Uniform(DepthOf<kProduct>(args, job));
    const int row = job.row + group * kHalf;
    const int height =
        kRowsSummed ? args.height : job.rows.end - job.rows.begin;
    // A warpgroup without rows leaves the tensor cores to the other.
    const bool works = Uniform(row < height) != 0;
    const auto arrived = [&](int p) {
      Wait(&shared.full[ring.stage], ring.phase);
      if (kRowsSummed && p + kTileDepth > depth) {
        ZeroRows(shared, ring.stage, depth - p);
      }
    };
    if (!works) {
      for (int p = 0; p < depth; p += kTileDepth, ring.Next()) {
        arrived(p);
        release(ring.stage);
      }
      continue;
    }
    if (kRowsSummed && depth == 0) {
#pragma unroll
      for (int i = 0; i < 128; ++i) sum[i] = 0;
    }
    int before = -1;  // The stage before.
    for (int p = 0; p < depth; p += kTileDepth, ring.Next()) {
      arrived(p);
      const uint64_t a =
          Describe(shared.a[ring.stage] + group * kHalf * kTileDepth);
      const uint64_t b = Describe(shared.b[ring.stage], kBoxBytes);
      BeginProducts();
#pragma unroll
      for (int q = 0; q < kTileDepth / 16; ++q) {
        Multiply<kOrderA, kOrderB>(sum, Advance(a, q * kStep16<kOrderA>),
                                   Advance(b, q * kStep16<kOrderB>),
                                   p > 0 || q > 0);
      }
      EndProducts();
      WaitForProducts<1>();
      if (before >= 0) release(before);
      before = ring.stage;
    }
    WaitForProducts<0>();
    if (before >= 0) release(before);
    const int64_t first =
        kRowsSummed ? int64_t{job.expert} * args.height : job.rows.begin;
    constexpr float kAsIs[2] = {1.f, 1.f};
    if constexpr (kProduct == Product::kSwiGlu) {
      // Column c of the second half lies where c + 128 of the tile does.
      float gated[64];
#pragma unroll
      for (int i = 0; i < 64; ++i) {
        gated[i] = __fdividef(sum[i], 1.f + __expf(-sum[i])) * sum[i + 64];
      }
      const int width = args.columns / 2, column = job.column / 2;
      StoreRows<kTileColumns / 2>(
          gated, kAsIs, height - row, width - column,
          static_cast<Y*>(args.result) + (first + row) * width + column, width);
    } else {
      Y* const to = static_cast<Y*>(args.result) +
                    (first + row) * args.columns + job.column;
      if constexpr (kRowsSummed) {
        const float keep = args.keep != nullptr ? *args.keep : 0.f;
        if (keep != 0) {
          AddRowsAt<kTileColumns>(sum, keep, height - row,
                                  args.columns - job.column, to, args.columns);
        }
      }
      StoreRows<kTileColumns>(sum, kAsIs, height - row,
                              args.columns - job.column, to, args.columns);
    }
  }
}

#endif  // STRATA_SM90A

template <Product kProduct, typename Y>
__global__ void __launch_bounds__(kThreads, 1)
    TileKernel(const Args args, const __grid_constant__ CUtensorMap map_a,
               const __grid_constant__ CUtensorMap map_b) {
#if STRATA_SM90A
  extern __shared__ char memory[];
  Shared& shared = *reinterpret_cast<Shared*>(
      (reinterpret_cast<uintptr_t>(memory) + kSwizzleBytes - 1) /
      kSwizzleBytes * kSwizzleBytes);
  const int rank = kCluster > 1 ? static_cast<int>(ClusterRank()) : 0;
  if (threadIdx.x == 0) {
    PrefetchMap(&map_a);
    PrefetchMap(&map_b);
    for (int i = 0; i < kStages; ++i) {
      InitBarrier(&shared.full[i], 1);
      InitBarrier(&shared.empty[i], 2 * kCluster);
    }
    FenceBarrierInit();
  }
  if (threadIdx.x / 32 == 1) {
    CountJobs<kProduct>(args, shared.first_job);
  }
  __syncthreads();
  if constexpr (kCluster > 1) SyncCluster();
  if (threadIdx.x < kWarpgroup) {
    ShrinkRegisters<40>();
    if (threadIdx.x == 0) {
      Load<kProduct>(args, shared, &map_a, &map_b, rank);
    }
    __syncwarp();
  } else {
    GrowRegisters<232>();
    MultiplyTiles<kProduct, Y>(args, shared, rank);
  }
  // The other block may still write and arrive here.
  if constexpr (kCluster > 1) SyncCluster();
#endif
}

template <Product kProduct, typename Y>
cudaError_t Launch(const Args& args, const CUtensorMap& map_a,
                   const CUtensorMap& map_b, int64_t max_jobs,
                   cudaStream_t stream) {
  auto* const kernel = TileKernel<kProduct, Y>;
  const cudaError_t allowed = cudaFuncSetAttribute(
      reinterpret_cast<const void*>(kernel),
      cudaFuncAttributeMaxDynamicSharedMemorySize, kSharedBytes);
  if (allowed != cudaSuccess) return allowed;
  int device = 0, processors = 0;
  cudaGetDevice(&device);
  cudaDeviceGetAttribute(&processors, cudaDevAttrMultiProcessorCount, device);
  const int64_t clusters =
      std::clamp<int64_t>(max_jobs, 1, processors / kCluster);
  return LaunchClusters<Begins::kBehind>(
      kernel, kCluster, dim3(static_cast<unsigned>(clusters * kCluster)),
      dim3(kThreads), kSharedBytes, stream, args, map_a, map_b);
}

int64_t Ceil(int64_t a, int64_t b) { return (a + b - 1) / b; }

bool Fits(int64_t n, int64_t k, int64_t rows, int64_t num_experts) {
  return HasTiles(n, k, num_experts) && rows < INT32_MAX - kTileRows &&
         n < INT32_MAX - kTileColumns && k < INT32_MAX - kTileColumns;
}

}  // namespace

cudaError_t GroupedProduct(const GroupedProductArgs& args,
                           cudaStream_t stream) {
  if (args.rows.bound == 0 || args.n == 0) return cudaSuccess;
  if (!IsHopper()) return cudaErrorNotSupported;
  if (!Fits(args.n, args.k, args.rows.bound, args.num_experts)) {
    return cudaErrorInvalidValue;
  }
  if (args.swiglu && (!args.transposed || args.n % kTileColumns != 0)) {
    return cudaErrorInvalidValue;
  }
  BoxedTensor x, w;
  x.data = args.x;
  x.columns = x.pitch = args.k;
  x.rows = args.rows.bound;
  w.data = args.w;
  w.columns = w.pitch = args.transposed ? args.k : args.n;
  w.rows = args.transposed ? args.n : args.k;
  w.depth = args.num_experts;
  w.stride = args.n * args.k;
  CUtensorMap map_x, map_w;
  if (const cudaError_t e = MakeTensorMap(x, &map_x); e) return e;
  if (const cudaError_t e = MakeTensorMap(w, &map_w); e) return e;
  Args tile;
  tile.rows = args.rows;
  tile.num_experts = args.num_experts;
  tile.columns = static_cast<int>(args.n);
  tile.depth = static_cast<int>(args.k);
  tile.offset = args.offset;
  tile.result = args.y;
  // Each expert may have a tile that is not full.
  const int64_t jobs = (Ceil(args.rows.bound, kTileRows) +
                        std::min<int64_t>(args.num_experts, args.rows.bound)) *
                       Ceil(args.n, kTileColumns);
  const auto launch = [&](auto* y) {
    using Y = std::remove_pointer_t<decltype(y)>;
    if (args.swiglu) {
      return Launch<Product::kSwiGlu, Y>(tile, map_x, map_w, jobs, stream);
    }
    return args.transposed ? Launch<Product::kByRowsOfWeights, Y>(
                                 tile, map_x, map_w, jobs, stream)
                           : Launch<Product::kByColumnsOfWeights, Y>(
                                 tile, map_x, map_w, jobs, stream);
  };
  return args.bf16_y ? launch(static_cast<__nv_bfloat16*>(nullptr))
                     : launch(static_cast<float*>(nullptr));
}

cudaError_t GroupedWeightGrad(const GroupedWeightGradArgs& args,
                              cudaStream_t stream) {
  if (args.num_experts == 0 || args.n == 0 || args.k == 0) return cudaSuccess;
  if (!IsHopper()) return cudaErrorNotSupported;
  if (!Fits(args.n, args.k, args.rows.bound, args.num_experts)) {
    return cudaErrorInvalidValue;
  }
  BoxedTensor dy, x;
  dy.data = args.dy;
  dy.columns = dy.pitch = args.n;
  x.data = args.x;
  x.columns = x.pitch = args.k;
  dy.rows = x.rows = std::max<int64_t>(1, args.rows.bound);
  CUtensorMap map_dy, map_x;
  if (const cudaError_t e = MakeTensorMap(dy, &map_dy); e) return e;
  if (const cudaError_t e = MakeTensorMap(x, &map_x); e) return e;
  Args tile;
  tile.rows = args.rows;
  tile.num_experts = args.num_experts;
  tile.columns = static_cast<int>(args.k);
  tile.height = static_cast<int>(args.n);
  tile.offset = args.offset;
  tile.result = args.dw;
  tile.keep = args.keep;
  tile.skips_empty = args.skips_empty;
  const int64_t jobs =
      args.num_experts * Ceil(args.n, kTileRows) * Ceil(args.k, kTileColumns);
  return args.bf16_dw ? Launch<Product::kOfRows, __nv_bfloat16>(
                            tile, map_dy, map_x, jobs, stream)
                      : Launch<Product::kOfRows, float>(tile, map_dy, map_x,
                                                        jobs, stream);
}

}  // namespace strata::gpu
