#include <algorithm>
#include <cmath>
#include <cstdint>
#include <type_traits>

#include "cuda/kernels/ahead.cuh"
#include "cuda/kernels/power_of_2.cuh"
#include "cuda/kernels/sm90.cuh"
#include "cuda/kernels/tensor_map.h"
#include "cuda/ops/cache/packed_format.h"
#include "cuda/ops/decode/few_rows_tile.cuh"
#include "cuda/ops/decode/latent_decode.h"
#include "cuda/ops/decode/latent_values.cuh"
#include "cuda/ops/decode/latent_values.h"
#include "cuda/ops/decode/weight_rows.h"
#include "cuda/ops/device.cuh"
#include "cuda/ops/heads/cache_places.cuh"
#include "cuda_bf16.h"

// What bounds it is latency, so there is one chain of it, with all that does
// not depend on q in front of the wait for the kernel that makes it:
//
//   before the wait   keys of the block's share, in BF16, to shared memory;
//                     three eighths of its head's W_V to registers
//   behind it         q and new keys; scores, by 16 warps that share columns
//                     and keys; softmax, a head a warp; values, 32 columns a
//                     warp; these to the block that has the head; the product
//                     of what 16 blocks have by W_V, a warp 16 rows by 256
//                     columns; its columns' sum
//
// 16 heads are the rows of one mma tile. More keys than a tile has go tile by
// tile, and those beyond the first are loaded as they are wanted.

namespace strata::gpu {
namespace latent_values {
namespace {

#if STRATA_SM90A

// --- Attention of a tile ---

// A warp's quarter of the columns, of keys 8 n and 8 n + 32 on.
__device__ __forceinline__ void Score(int keys, Shared& shared) {
  constexpr int kAtATime = 3;  // Steps; so many loads are waited for together.
  const int warp = static_cast<int>(threadIdx.x) / kWarp;
  const int quarter = warp / kQuarters, first = warp % kQuarters * 8;
  if (first >= keys) return;
  const int lane = Lane(), g = lane / 4, c = lane % 4;
  // Four tiles of eight rows each: of q the heads' halves, then the columns';
  // of keys the columns' halves, then the keys'.
  const int column = quarter * kSteps * 16;
  const __nv_bfloat16* const q = &shared.q[lane % 16][column + lane / 16 * 8];
  const __nv_bfloat16* const key =
      &shared.key[first + lane / 16 * (kKeys / 2) + lane % 8]
                 [column + lane / 8 % 2 * 8];
  float low[4] = {}, high[4] = {};
#pragma unroll
  for (int base = 0; base < kSteps; base += kAtATime) {
    uint32_t x[kAtATime][4], k[kAtATime][4];
#pragma unroll
    for (int i = 0; i < kAtATime; ++i) {
      LoadMatrices(x[i], q + (base + i) * 16);
      LoadMatrices(k[i], key + (base + i) * 16);
    }
#pragma unroll
    for (int i = 0; i < kAtATime; ++i) {
      MultiplyAdd(low, x[i][0], x[i][1], x[i][2], x[i][3], k[i][0], k[i][1]);
      MultiplyAdd(high, x[i][0], x[i][1], x[i][2], x[i][3], k[i][2], k[i][3]);
    }
  }
  float* const to = &shared.score[quarter][g][first + 2 * c];
  const auto store = [&](int offset, float a, float b) {
    *reinterpret_cast<float2*>(to + offset) = {a, b};
  };
  store(0, low[0], low[1]);
  store(8 * kKeys, low[2], low[3]);
  store(kKeys / 2, high[0], high[1]);
  store(8 * kKeys + kKeys / 2, high[2], high[3]);
}

// Scores to weights, a head a warp.
__device__ __forceinline__ void Weigh(const Args& a, int keys, float& largest,
                                      float& sum, Shared& shared) {
  const int head = static_cast<int>(threadIdx.x) / kWarp, lane = Lane();
  float score[2];
#pragma unroll
  for (int j = 0; j < 2; ++j) {
    const int at = lane + j * kWarp;
    float s = 0;
#pragma unroll
    for (int i = 0; i < kQuarters; ++i) s += shared.score[i][head][at];
    score[j] = at < keys ? s * a.factor : -INFINITY;
  }
  const float before = largest;
  largest = fmaxf(before, WarpMax(fmaxf(score[0], score[1])));
  const float keep = PowerOf2(before - largest);
  float added = 0;
#pragma unroll
  for (int j = 0; j < 2; ++j) {
    const float weight = PowerOf2(score[j] - largest);
    shared.weight[head][lane + j * kWarp] = __float2bfloat16_rn(weight);
    added += weight;
  }
  sum = sum * keep + added;  // The lane's part.
  if (lane == 0) shared.keep[head] = keep;
}

// o += weights * the warp's 32 columns of the keys.
__device__ __forceinline__ void AddValues(int keys, const Shared& shared,
                                          float (&o)[kValueColumns / 8][4]) {
  const int lane = Lane();
  const int column = static_cast<int>(threadIdx.x) / kWarp * kValueColumns;
  const __nv_bfloat16* const weight = &shared.weight[lane % 16][lane / 16 * 8];
  const __nv_bfloat16* const key =
      &shared.key[lane % 16][column + lane / 16 * 8];
#pragma unroll
  for (int i = 0; i < kKeys; i += 16) {
    if (i >= keys) break;
    uint32_t p[4], v[kValueColumns / 16][4];
    LoadMatrices(p, weight + i);
#pragma unroll
    for (int n = 0; n < kValueColumns / 16; ++n) {
      LoadTransposed(v[n], key + i * kPitch + n * 16);
    }
#pragma unroll
    for (int n = 0; n < kValueColumns / 16; ++n) {
      MultiplyAdd(o[2 * n], p[0], p[1], p[2], p[3], v[n][0], v[n][1]);
      MultiplyAdd(o[2 * n + 1], p[0], p[1], p[2], p[3], v[n][2], v[n][3]);
    }
  }
}

// --- What the blocks of the cluster have of each head, to its block ---

__device__ __forceinline__ void StoreSums(
    const float (&o)[kValueColumns / 8][4], float largest, float weights,
    Shared& shared) {
  const int warp = static_cast<int>(threadIdx.x) / kWarp, lane = Lane();
  const int column = warp * kValueColumns + lane % 4 * 2;
  const auto store = [&](int head, int n, float a, float b) {
    *reinterpret_cast<__nv_bfloat162*>(&shared.sums[head].o[column + n * 8]) =
        __floats2bfloat162_rn(a, b);
  };
#pragma unroll
  for (int n = 0; n < kValueColumns / 8; ++n) {
    store(lane / 4, n, o[n][0], o[n][1]);
    store(lane / 4 + 8, n, o[n][2], o[n][3]);
  }
  weights = WarpSum(weights);
  if (lane == 0) {
    shared.sums[warp].largest = largest;
    shared.sums[warp].weights = weights;
  }
  FenceSharedStores();
}

// Sends each other block those of its head, a warp one. What stays is moved by
// the first, whose threads then arrive at the barrier of all.
__device__ __forceinline__ void SendSums(int rank, Shared& shared) {
  const int warp = static_cast<int>(threadIdx.x) / kWarp;
  if (warp > 0) {
    const int to = (rank + warp) % kBlocks;
    if (Lane() == 0) {
      SendBytes(&shared.sums[to], &shared.of_block[rank].sums, sizeof(Sums),
                &shared.there, to);
    }
  } else {
    constexpr int kCount = sizeof(Sums) / sizeof(uint4);
    const auto* const from = reinterpret_cast<const uint4*>(&shared.sums[rank]);
    auto* const to = reinterpret_cast<uint4*>(&shared.of_block[rank].sums);
    for (int i = Lane(); i < kCount; i += kWarp) to[i] = from[i];
    if (Lane() == 0) {
      ArriveExpecting(&shared.there, (kBlocks - 1) * sizeof(Sums));
    } else {
      Arrive(&shared.there);
    }
  }
  __syncwarp();
}

// By what the sums of block `lane` of the cluster count, in both halves of a
// warp.
__device__ __forceinline__ float ShareOfBlock(const Shared& shared) {
  const Sums& sums = shared.of_block[Lane() % kBlocks].sums;
  const float largest = LanesMax<kBlocks>(sums.largest);
  const float weight =
      sums.largest > -INFINITY ? PowerOf2(sums.largest - largest) : 0.f;
  const float total = LanesSum<kBlocks>(sums.weights * weight);
  return total > 0 ? weight / total : 0.f;
}

// The block's head of y, where `part` of it lies then: a warp 16 rows by half
// of the columns. The sums of all blocks are multiplied as the columns of two
// tiles, and joined behind it.
__device__ __forceinline__ void MultiplyValues(
    const Bf16Tile::Unit (&early)[kEarlyUnits],
    const Bf16Tile::Unit (&late)[kUnits - kEarlyUnits], Shared& shared) {
  const int warp = static_cast<int>(threadIdx.x) / kWarp;
  const int g = Lane() / 4, c = Lane() % 4;
  const int column = (warp % 2 * kUnits * 4 + c) * 8;
  float d[2][2][4] = {};
#pragma unroll
  for (int i = 0; i < kUnits; ++i) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const uint4 b[1] = {*reinterpret_cast<const uint4*>(
          &shared.of_block[half * kTileTokens + g].sums.o[column + i * 32])};
      Bf16Tile::Multiply(
          i < kEarlyUnits ? early[i] : late[max(i, kEarlyUnits) - kEarlyUnits],
          b, d[half][i % 2]);
    }
  }
  const float share = ShareOfBlock(shared);
  float y[2] = {};
#pragma unroll
  for (int half = 0; half < 2; ++half) {
#pragma unroll
    for (int j = 0; j < 2; ++j) {
      const float w =
          __shfl_sync(kWholeWarp, share, half * kTileTokens + 2 * c + j);
      y[0] = fmaf(w, d[half][0][j] + d[half][1][j], y[0]);
      y[1] = fmaf(w, d[half][0][j + 2] + d[half][1][j + 2], y[1]);
    }
  }
  y[0] = LanesSum<4>(y[0]);
  y[1] = LanesSum<4>(y[1]);
  if (c != 0) return;
  float* const part = &shared.part[warp % 2][warp / 2 * kTileRows + g];
  part[0] = y[0];
  part[kTileRows / 2] = y[1];
}

#endif  // STRATA_SM90A

// kFormat: of the cache.
template <PackedFormat kFormat>
__global__ void __maxnreg__(kRegisters)
    ValuesKernel(const __grid_constant__ Args a) {
#if STRATA_SM90A
  extern __shared__ uint4 memory[];
  Shared& shared = *reinterpret_cast<Shared*>(memory);
  const int thread = static_cast<int>(threadIdx.x);
  const int warp = thread / kWarp;
  const int cluster = static_cast<int>(blockIdx.x) / kBlocks;
  const int64_t token = cluster / a.groups;
  if (token >= a.tokens.Get()) {  // The whole cluster.
    WaitForEarlier();
    LetLaterBegin();
    return;
  }
  const int rank = static_cast<int>(ClusterRank());
  const int first_head = cluster % a.groups * kHeads, head = first_head + rank;
  const int keys = static_cast<int>(a.places.NumKeys(token, a.fault));
  const int seen =
      a.window > 0 ? static_cast<int>(min(a.window, int64_t{keys})) : keys;
  const int size = (seen + kBlocks - 1) / kBlocks;
  const int begin = min(keys - seen + rank * size, keys);
  const int end = min(begin + size, keys);
  if (thread == 0) {
    InitBarrier(&shared.there, kWarp);
    InitBarrier(&shared.codes, kAskingWarps);
    FenceBarrierInit();
  }
  __syncwarp();
  ArriveAtCluster();
  const auto find_rows = [&](int first, int count) {
    if (thread < count) {
      const int64_t row = a.places.RowOf(token, first + thread, a.fault);
      shared.place[thread] = PlaceOf<kFormat>(a, row);
    }
    __syncthreads();
  };
  // Of the first tile, and of that what no kernel which still runs has written.
  const int tile = min(kKeys, end - begin);
  const int old =
      max(0, min(tile, keys - static_cast<int>(a.tokens.bound) - begin));
  find_rows(begin, tile);
  BringKeys<kFormat, kKeys / kWarps>(a, old, shared);
  ClearKeys(tile, shared);
  const bool multiplies = warp / 2 * kTileRows < a.value;
  const RowsOfTile w(a.w,
                     int64_t{head} * a.value +
                         (multiplies ? warp / 2 * kTileRows : 0) + Lane() / 4,
                     kTileRows / 2);
  const int unit = warp % 2 * kUnits;
  Bf16Tile::Unit early[kEarlyUnits], late[kUnits - kEarlyUnits];
  if (multiplies) {
    LoadBatch<Bf16Tile>(w, unit, unit + kEarlyUnits, early);
#pragma unroll
    for (int i = kEarlyUnits + Lane() % 4; i < kUnits; i += 4) {
      const int at = (unit + i) * kUnitBytes;
      asm volatile("prefetch.global.L2 [%0];" ::"l"(w.upper + at));
      asm volatile("prefetch.global.L2 [%0];" ::"l"(w.lower + at));
    }
  }
  uint32_t phase = 0;  // Of codes.
  if constexpr (IsInCodes(kFormat)) WidenCodes<kFormat>(0, old, phase, shared);
  WaitForCluster();  // Its barriers for sums are there.
  WaitForEarlier();
  LetLaterBegin();
  BringQueries<kFormat>(
      a,
      reinterpret_cast<const float4*>(a.q + (token * a.num_heads + first_head) *
                                                kLatentWidth),
      old, tile, shared);
  if constexpr (IsInCodes(kFormat)) {
    WidenCodes<kFormat>(old, tile, phase, shared);
  }
  WaitForCopies16();
  __syncthreads();

  float o[kValueColumns / 8][4] = {};
  float largest = -INFINITY, sum = 0;
#pragma unroll 1
  for (int first = begin; first < end; first += kKeys) {
    const int there = min(kKeys, end - first);
    if (first > begin) {
      __syncthreads();
      find_rows(first, there);
      BringKeys<kFormat, 1>(a, there, shared);
      ClearKeys(there, shared);
      if constexpr (IsInCodes(kFormat)) {
        WidenCodes<kFormat>(0, there, phase, shared);
      }
      WaitForCopies16();
      __syncthreads();
    }
    Score(there, shared);
    __syncthreads();
    Weigh(a, there, largest, sum, shared);
    __syncthreads();
    if (first > begin) {
      const float upper = shared.keep[Lane() / 4];
      const float lower = shared.keep[Lane() / 4 + 8];
#pragma unroll
      for (auto& of : o) {
        of[0] *= upper;
        of[1] *= upper;
        of[2] *= lower;
        of[3] *= lower;
      }
    }
    AddValues(there, shared, o);
  }
  StoreSums(o, largest, sum, shared);
  __syncthreads();
  SendSums(rank, shared);
  if (multiplies) {
    LoadBatch<Bf16Tile>(w, unit + kEarlyUnits, unit + kUnits, late);
  }
  Wait(&shared.there, 0);
  __syncwarp();
  ArriveAtCluster();
  if (multiplies) MultiplyValues(early, late, shared);
  __syncthreads();
  if (thread < a.value) {
    a.y[(token * a.num_heads + head) * a.value + thread] =
        shared.part[0][thread] + shared.part[1][thread];
  }
  __syncwarp();
  WaitForCluster();  // Others have what was sent from here.
#endif
}

int GroupsOf(const LatentDecodeArgs& attend) {
  return attend.num_heads / kHeads;
}

cudaLaunchConfig_t ConfigOf(int64_t clusters, size_t shared_bytes,
                            cudaLaunchAttribute* cluster) {
  cluster->id = cudaLaunchAttributeClusterDimension;
  cluster->val.clusterDim = {kBlocks, 1, 1};
  cudaLaunchConfig_t config = {};
  config.gridDim = dim3(static_cast<unsigned>(clusters * kBlocks));
  config.blockDim = dim3(kThreads);
  config.dynamicSmemBytes = shared_bytes;
  config.attrs = cluster;
  config.numAttrs = 1;
  return config;
}

// Such clusters are larger than every GPU of the architecture has to run.
template <PackedFormat kFormat>
cudaError_t AllowLaunch() {
  const auto* const kernel =
      reinterpret_cast<const void*>(ValuesKernel<kFormat>);
  const cudaError_t error =
      cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                           SharedBytes<kFormat>());
  if (error != cudaSuccess) return error;
  return cudaFuncSetAttribute(
      kernel, cudaFuncAttributeNonPortableClusterSizeAllowed, 1);
}

// Clusters that run at once, 0 where none may.
template <PackedFormat kFormat>
int ActiveClustersOfValues() {
  static const int count = [] {
    int clusters = 0;
    cudaLaunchAttribute cluster;
    const cudaLaunchConfig_t config =
        ConfigOf(1, SharedBytes<kFormat>(), &cluster);
    if (!IsHopper() || AllowLaunch<kFormat>() != cudaSuccess ||
        cudaOccupancyMaxActiveClusters(
            &clusters, reinterpret_cast<const void*>(ValuesKernel<kFormat>),
            &config) != cudaSuccess) {
      cudaGetLastError();  // Of that call; there is another way.
      return 0;
    }
    return clusters;
  }();
  return count;
}

template <PackedFormat kFormat>
cudaError_t Launch(const Args& a, cudaStream_t stream) {
  if (const cudaError_t e = AllowLaunch<kFormat>(); e != cudaSuccess) return e;
  return LaunchClustersAhead(
      ValuesKernel<kFormat>, kBlocks,
      dim3(static_cast<unsigned>(a.tokens.bound * a.groups * kBlocks)),
      dim3(kThreads), SharedBytes<kFormat>(), stream, a);
}

template <PackedFormat kFormat>
using Of = std::integral_constant<PackedFormat, kFormat>;

// What `visit` makes of the format as a type.
template <typename Visit>
auto WithFormat(PackedFormat format, Visit visit) {
  switch (format) {
    case PackedFormat::kF32:
      return visit(Of<PackedFormat::kF32>{});
    case PackedFormat::kBf16:
      return visit(Of<PackedFormat::kBf16>{});
    case PackedFormat::kInt8:
      return visit(Of<PackedFormat::kInt8>{});
    default:
      return visit(Of<PackedFormat::kInt4>{});
  }
}

}  // namespace
}  // namespace latent_values

bool HasLatentValues(const LatentValuesArgs& args) {
  const LatentDecodeArgs& attend = args.attend;
  const auto active = [&] {
    return latent_values::WithFormat(attend.format, [](auto format) {
      return latent_values::ActiveClustersOfValues<decltype(format)::value>();
    });
  };
  return attend.tokens.bound >= 1 &&
         attend.num_heads % latent_values::kHeads == 0 &&
         args.value >= kTileRows && args.value % kTileRows == 0 &&
         args.value <= latent_values::kMaxValue && args.w.bits == kBf16Bits &&
         HasTiles(args.w) && args.w.k == kLatentRank &&
         attend.max_keys <= latent_values::kMaxKeys * attend.tokens.bound &&
         attend.tokens.bound * latent_values::GroupsOf(attend) <= active();
}

cudaError_t LatentValues(const LatentValuesArgs& args, cudaStream_t stream) {
  if (!HasLatentValues(args)) return cudaErrorInvalidValue;
  const LatentDecodeArgs& attend = args.attend;
  latent_values::Args a;
  a.tokens = attend.tokens;
  a.num_heads = attend.num_heads;
  a.groups = latent_values::GroupsOf(attend);
  a.value = static_cast<int>(args.value);
  a.factor = attend.scale * 1.4426950408889634f;
  a.window = attend.window;
  a.q = attend.q;
  a.cache = attend.cache;
  static_cast<CachePlaces&>(a.places) = attend.places;
  a.w = args.w;
  a.y = args.y;
  a.fault = attend.fault;
  return latent_values::WithFormat(attend.format, [&](auto format) {
    return latent_values::Launch<decltype(format)::value>(a, stream);
  });
}

}  // namespace strata::gpu
