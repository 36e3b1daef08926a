#include <algorithm>
#include <cstdint>
#include <type_traits>

#include "cuda/kernels/ahead.cuh"
#include "cuda/kernels/counter_of.h"
#include "cuda/kernels/grouped_product.h"
#include "cuda/kernels/sm90.cuh"
#include "cuda/kernels/sm90_grouped_jobs.cuh"
#include "cuda/kernels/sm90_product.cuh"
#include "cuda/kernels/store_rows.cuh"
#include "cuda/kernels/tensor_map.h"
#include "cuda/runtime/kernel.h"
#include "cuda/runtime/side_lane_streams.h"
#include "cuda_bf16.h"

// A block a multiprocessor, which works on tile after tile of 128 x 256:
//
//   warpgroup 0     one thread loads: 64 of what is summed over at a time, of
//                   both operands, into the next of four stages; another
//                   claims the tiles (sm90_grouped_jobs.cuh)
//   warpgroup 1, 2  multiply, 64 rows each, and write the result
//
// Bound by the tensor cores, and close to it by what L2 gives: a tile reads 48
// KB for 1024 cycles of products. So two blocks of a cluster work on tiles that
// share an operand, and each loads half of it for both.

namespace strata::gpu {
namespace {

using namespace grouped;

#if STRATA_SM90A

// The thread that claims jobs, of the warpgroup that loads.
constexpr int kClaimer = 64;

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

// What the kernel ahead makes is there, and the one behind may begin.
__device__ __forceinline__ void WaitAndLetBegin() {
  WaitForEarlier();
  LetLaterBegin();
}

// One thread: keeps the stages full. Of b those of the first job come before
// the kernel ahead has ended, if they may.
template <Product kProduct>
__device__ void Load(const Args& args, Shared& shared, const CUtensorMap* map_a,
                     const CUtensorMap* map_b, int rank) {
  Schedule<kProduct, Reader::kThread> schedule(args, shared);
  constexpr bool kRowsOfB = ByRowsOfWeights(kProduct);
  constexpr uint16_t kAll = (1 << kCluster) - 1;
  constexpr bool kBoth = kCluster > 1;
  const bool asks = rank == 0 && args.claims != nullptr;
  bool waits = args.b_ahead;
  Ring<kStages> ring;
  for (Job job; schedule.Next(rank, job);) {
    const int depth = DepthOf<kProduct>(args, job);
    const int boxes_a = BoxesOfA<kProduct>(job);
    const int asks_at = max(0, Div(depth, kTileDepth) - kAskAhead) * kTileDepth;
    // Of both operands boxes of 64 outer indices by 64 to sum over.
    const auto load = [&](const CUtensorMap* map, char* to, int stage,
                          bool shared_load, int x, int y, int z) {
      uint64_t* const full = &shared.full[stage];
      if (shared_load) {
        LoadBoxToAll(map, to, full, x, y, z, kAll);
      } else {
        LoadBox(map, to, full, x, y, z);
      }
    };
    const auto load_a = [&](int stage, int p) {
      char* const a = reinterpret_cast<char*>(shared.a[stage]);
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        if (i >= boxes_a) break;
        if (kBoth && !job.shares_b && i % kCluster != rank) continue;
        const bool to_all = kBoth && !job.shares_b;
        if constexpr (kProduct == Product::kOfRows) {
          load(map_a, a + i * kBoxBytes, stage, to_all, job.row + i * kHalf,
               job.rows.begin + p, 0);
        } else {
          load(map_a, a + i * kBoxBytes, stage, to_all, p,
               job.rows.begin + job.row + i * kHalf, 0);
        }
      }
    };
    const auto load_b = [&](int stage, int p) {
      ArriveExpecting(&shared.full[stage], (boxes_a + 4) * kBoxBytes);
      char* const b = reinterpret_cast<char*>(shared.b[stage]);
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        if (kBoth && job.shares_b && i % kCluster != rank) continue;
        const bool to_all = kBoth && job.shares_b;
        int column = job.column + i * 64;
        if constexpr (kProduct == Product::kSwiGlu) {
          // 128 columns of the first half, and the same of the second.
          column = job.column / 2 + i % 2 * 64 + i / 2 * (args.columns / 2);
        }
        char* const to = b + i * kBoxBytes;
        if constexpr (kRowsOfB) {
          load(map_b, to, stage, to_all, p, column, job.expert);
        } else if constexpr (kProduct == Product::kByColumnsOfWeights) {
          load(map_b, to, stage, to_all, column, p, job.expert);
        } else {
          load(map_b, to, stage, to_all, column, job.rows.begin + p, 0);
        }
      }
    };
    int there = 0;  // So much of b's depth is on its way already.
    if (waits) {
      for (int i = 0; i < kStages && there < depth; ++i, there += kTileDepth) {
        load_b(i, there);
      }
      WaitAndLetBegin();
      waits = false;
    }
    if (asks && depth == 0) Arrive(&shared.asked);
    for (int p = 0; p < depth; p += kTileDepth, ring.Next()) {
      if (asks && p == asks_at) Arrive(&shared.asked);
      // A stage that was filled ahead may have been used by now, if the other
      // block brought its a: waiting for it would be waiting for the next use.
      if (p >= there) {
        Wait(&shared.empty[ring.stage], ring.phase ^ 1);
        load_b(ring.stage, p);
      }
      load_a(ring.stage, p);
    }
  }
  if (waits) WaitAndLetBegin();
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
  Schedule<kProduct, Reader::kWarp> schedule(args, shared);
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
    InitBarrier(&shared.asked, 1);
    for (int i = 0; i < kToldJobs; ++i) {
      InitBarrier(&shared.told[i], 1);
      InitBarrier(&shared.read[i], kReaders);
    }
    FenceBarrierInit();
  }
  if (!args.b_ahead) WaitAndLetBegin();
  // What comes back of a claim is wanted only when jobs have been counted.
  const bool claims =
      threadIdx.x == kClaimer && rank == 0 && args.claims != nullptr;
  const int first = claims ? static_cast<int>(atomicAdd(args.claims, 1u)) : 0;
  BringRows(args, shared);
  __syncthreads();
  if (threadIdx.x / 32 == 1) CountJobs<kProduct>(args, shared);
  if constexpr (kCluster > 1) {
    __syncwarp();
    SyncCluster();
  } else {
    __syncthreads();
  }
  if (threadIdx.x < kWarpgroup) {
    ShrinkRegisters<40>();
    if (threadIdx.x == 0) {
      Load<kProduct>(args, shared, &map_a, &map_b, rank);
    } else if (claims) {
      ClaimJobs(args, shared, first);
    }
    __syncwarp();
    // Not before: a thread that waits holds up its warp, the loading one.
    if (args.b_ahead) WaitForEarlier();
  } else {
    GrowRegisters<232>();
    if (args.b_ahead) WaitAndLetBegin();
    MultiplyTiles<kProduct, Y>(args, shared, rank);
  }
  // The other block may still write and arrive here.
  if constexpr (kCluster > 1) SyncCluster();
#endif
}

template <Product kProduct, typename Y>
cudaError_t Launch(Args args, bool claims, const CUtensorMap& map_a,
                   const CUtensorMap& map_b, int64_t max_jobs,
                   cudaStream_t stream, bool ahead = false) {
  if (claims || RunsBeside(stream)) args.claims = CounterOf(stream);
  args.b_ahead = args.b_ahead && ahead && args.claims == nullptr;
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
  const dim3 blocks(static_cast<unsigned>(clusters * kCluster));
  return ahead ? LaunchClusters<Begins::kAhead>(kernel, kCluster, blocks,
                                                dim3(kThreads), kSharedBytes,
                                                stream, args, map_a, map_b)
               : LaunchClusters<Begins::kBehind>(kernel, kCluster, blocks,
                                                 dim3(kThreads), kSharedBytes,
                                                 stream, args, map_a, map_b);
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
  tile.b_ahead = args.weights_ahead;
  // Each expert may have a tile that is not full.
  const int64_t jobs = (Ceil(args.rows.bound, kTileRows) +
                        std::min<int64_t>(args.num_experts, args.rows.bound)) *
                       Ceil(args.n, kTileColumns);
  const auto launch = [&](auto* y) {
    using Y = std::remove_pointer_t<decltype(y)>;
    if (args.swiglu) {
      return Launch<Product::kSwiGlu, Y>(tile, args.claims, map_x, map_w, jobs,
                                         stream, args.ahead);
    }
    return args.transposed
               ? Launch<Product::kByRowsOfWeights, Y>(
                     tile, args.claims, map_x, map_w, jobs, stream, args.ahead)
               : Launch<Product::kByColumnsOfWeights, Y>(
                     tile, args.claims, map_x, map_w, jobs, stream, args.ahead);
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
                            tile, args.claims, map_dy, map_x, jobs, stream)
                      : Launch<Product::kOfRows, float>(
                            tile, args.claims, map_dy, map_x, jobs, stream);
}

}  // namespace strata::gpu
