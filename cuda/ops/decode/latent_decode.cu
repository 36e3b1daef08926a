#include <algorithm>
#include <cmath>
#include <cstdint>
#include <numeric>

#include "cuda/kernels/ahead.cuh"
#include "cuda/kernels/power_of_2.cuh"
#include "cuda/kernels/sm90.cuh"
#include "cuda/kernels/sm90_product.cuh"
#include "cuda/kernels/store_rows.cuh"
#include "cuda/kernels/tensor_map.h"
#include "cuda/ops/decode/join_pieces.h"
#include "cuda/ops/decode/latent_decode.h"
#include "cuda/ops/decode/latent_keys.cuh"
#include "cuda/ops/vector16.cuh"
#include "cuda/runtime/kernel.h"
#include "cuda_bf16.h"

// A block has 64 heads of a token and a piece of its keys, 64 at a time:
//
//   warpgroup 0   brings keys into the next of two stages, swizzled as products
//                 want them: the copy engine where the cache is BF16 and enough
//                 rows lie together, threads where not and for a piece's last
//                 keys, behind which there have to be zeros
//   warpgroup 1   scores, softmax, and its weights into shared memory; then the
//                 first 256 columns of the values
//   warpgroup 2   the other 256, while the first one's softmax runs
//
// The first tile of an F32 cache all threads bring, before earlier kernels have
// ended where these do not write it. Keys are read once and serve as values
// too. Where a token has an even number of such blocks, two of them are a
// cluster: each brings half of the keys, to both of them.

namespace strata::gpu {
namespace latent {
namespace {

// Multiprocessors of a Hopper GPU; a block takes one by itself.
constexpr int64_t kProcessors = 132;

#if STRATA_SM90A

// Powers of 2 that a score may be above the maximum which all are held against
// before that grows. Sums are F32 and weights have as many bits whatever their
// size, so nothing is lost; sums are seldom multiplied, and lanes need not tell
// each other their scores' maximum.
constexpr float kSlack = 8;

// Where chunk `at` of the block's queries, row by row, lies in shared memory.
constexpr int kQueryChunks = kLatentWidth / 8;  // Of a row.
__device__ __forceinline__ uint4* QueryAt(int at, Shared& shared) {
  const int row = at / kQueryChunks, chunk = at % kQueryChunks;
  return reinterpret_cast<uint4*>(reinterpret_cast<char*>(shared.q[0]) +
                                  chunk / 8 * kBoxBytes +
                                  SwizzledBytes(row, chunk % 8));
}

// The block's queries, rounded, by both warpgroups that multiply; zeros, which
// wait for nothing, where there are fewer heads.
__device__ __forceinline__ void ClearQueries(int heads, Shared& shared) {
  const int thread = static_cast<int>(threadIdx.x) - kWarpgroup;
  for (int at = heads * kQueryChunks + thread; at < kRows * kQueryChunks;
       at += 2 * kWarpgroup) {
    *QueryAt(at, shared) = {0, 0, 0, 0};
  }
  FenceSharedStores();
}
__device__ void LoadQueries(const Args& args, int64_t token, int head,
                            int heads, Shared& shared) {
  const auto* const from = reinterpret_cast<const float4*>(
      args.q + (token * args.num_heads + head) * kLatentWidth);
  constexpr int kStride = 2 * kWarpgroup, kBatch = 6;  // 16 heads in one.
  const int thread = static_cast<int>(threadIdx.x) - kWarpgroup;
  const int all = heads * kQueryChunks;
#pragma unroll 1
  for (int base = thread; base < all; base += kStride * kBatch) {
    float4 x[kBatch][2];
#pragma unroll
    for (int j = 0; j < kBatch; ++j) {
      const int at = base + j * kStride;
      if (at >= all) continue;
      x[j][0] = from[2 * at];
      x[j][1] = from[2 * at + 1];
    }
#pragma unroll
    for (int j = 0; j < kBatch; ++j) {
      const int at = base + j * kStride;
      if (at >= all) continue;
      *QueryAt(at, shared) = Narrow(x[j][0], x[j][1]);
    }
  }
  FenceSharedStores();
}

// o (+)= weights * columns of the keys of `stage`: the first half of them with
// the weights in the thread's registers, the second with those of shared
// memory.
__device__ __forceinline__ void IssueFirstValues(
    const Shared& shared, int stage, bool add,
    const uint32_t (&weight)[kRows / 16][4], float (&o)[kHalf / 2]) {
  const uint64_t b = Describe(shared.keys[stage][0], kBoxBytes);
  BeginProducts();
#pragma unroll
  for (int q = 0; q < kRows / 16; ++q) {
    Multiply<kOuter>(o, weight[q], Advance(b, q * kStep16<kOuter>),
                     add || q > 0);
  }
  EndProducts();
}
__device__ __forceinline__ void IssueOtherValues(const Shared& shared,
                                                 int stage, bool add,
                                                 float (&o)[kHalf / 2]) {
  const uint64_t a = Describe(shared.p);
  const uint64_t b =
      Describe(shared.keys[stage][kHalf / kSwizzleColumns], kBoxBytes);
  BeginProducts();
#pragma unroll
  for (int q = 0; q < kRows / 16; ++q) {
    Multiply<kInner, kOuter>(o, Advance(a, q * kStep16<kInner>),
                             Advance(b, q * kStep16<kOuter>), add || q > 0);
  }
  EndProducts();
}

__device__ __forceinline__ void Rescale(float (&o)[kHalf / 2], float upper,
                                        float lower) {
  if (__all_sync(0xffffffff, upper == 1.f && lower == 1.f)) return;
#pragma unroll
  for (int i = 0; i < kHalf / 2; ++i) o[i] *= i / 2 % 2 == 0 ? upper : lower;
}

// Of a thread's two heads (rows `upper` and eight below).
struct Softmax {
  float max[2] = {-INFINITY, -INFINITY};  // Or up to kSlack powers less.
  float sum[2] = {0, 0};                  // This thread's part.
};

// Scores of a tile to weights, `keys` of which are there. A warpgroup's warps
// are alone in their quarters of the processor, so it is the number of
// instructions that costs: a maximum, a multiplication with an addition, a
// power and a sum for each score.
__device__ __forceinline__ void Weigh(float (&score)[kRows / 2], float factor,
                                      int keys, Softmax& softmax,
                                      float (&keep)[2]) {
  const int lane = threadIdx.x % 4;
  if (keys < kRows) {
#pragma unroll
    for (int i = 0; i < kRows / 2; ++i) {
      if (i / 4 * 8 + lane * 2 + i % 2 >= keys) score[i] = -INFINITY;
    }
  }
  float largest[2];
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    float part[kRows / 8];
#pragma unroll
    for (int g = 0; g < kRows / 8; ++g) {
      part[g] = fmaxf(score[4 * g + 2 * half], score[4 * g + 2 * half + 1]);
    }
#pragma unroll
    for (int n = kRows / 16; n > 0; n /= 2) {
#pragma unroll
      for (int g = 0; g < n; ++g) part[g] = fmaxf(part[g], part[g + n]);
    }
    largest[half] = part[0];
    keep[half] = 1;
  }
  const auto is_above = [&](int half) {
    return factor * (largest[half] - softmax.max[half]) > kSlack;
  };
  if (__any_sync(0xffffffff, is_above(0) || is_above(1))) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      float& x = largest[half];
      x = fmaxf(x, __shfl_xor_sync(0xffffffff, x, 1));
      x = fmaxf(x, __shfl_xor_sync(0xffffffff, x, 2));
      if (!is_above(half)) continue;
      keep[half] = PowerOf2(factor * (softmax.max[half] - x));
      softmax.max[half] = x;
      softmax.sum[half] *= keep[half];
    }
  }
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const float shift = factor * softmax.max[half];
    float part[4] = {0, 0, 0, 0};
#pragma unroll
    for (int g = 0; g < kRows / 8; ++g) {
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        float& x = score[4 * g + 2 * half + i];
        x = PowerOf2(fmaf(factor, x, -shift));
        part[g % 2 * 2 + i] += x;
      }
    }
    softmax.sum[half] += (part[0] + part[1]) + (part[2] + part[3]);
  }
}

// Two BF16 a register, as products take an operand from there.
__device__ __forceinline__ void Narrow(const float (&score)[kRows / 2],
                                       uint32_t (&weight)[kRows / 16][4]) {
#pragma unroll
  for (int q = 0; q < kRows / 16; ++q) {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      weight[q][i] = Pair(score[8 * q + 2 * i], score[8 * q + 2 * i + 1]);
    }
  }
}

__device__ __forceinline__ void StoreWeights(
    const uint32_t (&weight)[kRows / 16][4], int upper, Shared& shared) {
  char* const to = reinterpret_cast<char*>(shared.p);
  const int lane = threadIdx.x % 4;
#pragma unroll
  for (int g = 0; g < kRows / 8; ++g) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      *reinterpret_cast<uint32_t*>(to + SwizzledBytes(upper + 8 * half, g) +
                                   lane * 4) = weight[g / 2][g % 2 * 2 + half];
    }
  }
}

// Results of a warpgroup's columns, times the shares that lie in shared memory.
__device__ __forceinline__ void StoreValues(const Args& args,
                                            const Piece& piece, int head,
                                            int heads, int half, int upper,
                                            const float (&o)[kHalf / 2],
                                            const Shared& shared) {
  const float share[2] = {shared.share[upper], shared.share[upper + 8]};
  const int64_t row = (piece.token * args.num_heads + head) * args.splits;
  float* const to = args.splits > 1 ? args.partial : args.o;
  StoreRows<kHalf>(o, share, heads, kHalf,
                   to + (row + blockIdx.y) * kLatentRank + half * kHalf,
                   int64_t{args.splits} * kLatentRank);
}

// Until a tile's box is there. Threads that round an F32 cache say so once, for
// all boxes.
template <bool kBf16>
__device__ __forceinline__ void WaitForBox(Shared& shared, int stage, int box,
                                           uint32_t parity) {
  Wait(&shared.full[stage][kBf16 ? box : 0], parity);
}

// score = queries * the keys of `stage`, box by box as they come.
template <bool kBf16>
__device__ __forceinline__ void IssueScores(Shared& shared, int stage,
                                            uint32_t parity,
                                            float (&score)[kRows / 2]) {
#pragma unroll
  for (int box = 0; box < kBoxes; ++box) {
    if (kBf16 || box == 0) WaitForBox<kBf16>(shared, stage, box, parity);
    if (box == 0) BeginProducts();
    const uint64_t a = Describe(shared.q[box]);
    const uint64_t b = Describe(shared.keys[stage][box]);
#pragma unroll
    for (int q = 0; q < 4; ++q) {
      Multiply<kInner, kInner>(score, Advance(a, q * kStep16<kInner>),
                               Advance(b, q * kStep16<kInner>), box + q > 0);
    }
  }
  EndProducts();
}

// One says for its warpgroup, to all blocks that write there, that its half of
// a stage is free.
__device__ __forceinline__ void Release(const Args& args, uint64_t* empty) {
  const int thread = static_cast<int>(threadIdx.x) % kWarpgroup;
  if (thread >= args.blocks) return;
  if (args.blocks > 1) {
    ArriveAt(empty, thread);
  } else {
    Arrive(empty);
  }
}

template <bool kBf16>
__device__ void Score(const Args& args, const Piece& piece, int head, int heads,
                      Shared& shared) {
  const int thread = static_cast<int>(threadIdx.x) % kWarpgroup;
  const int upper = thread / 32 * 16 + thread % 32 / 4;
  const int tiles = piece.tiles();
  float score[kRows / 2], o[kHalf / 2];
#pragma unroll
  for (float& x : o) x = 0;
  Softmax softmax;
  for (int i = 0; i < tiles; ++i) {
    const int stage = i % kStages;
    IssueScores<kBf16>(shared, stage, static_cast<uint32_t>(i / kStages % 2),
                       score);
    WaitForProducts<0>();
    float keep[2];
    Weigh(score, args.factor, piece.end - piece.begin - i * kRows, softmax,
          keep);
    uint32_t weight[kRows / 16][4];
    Narrow(score, weight);
    const auto multiply = [&] {
      Rescale(o, keep[0], keep[1]);
      IssueFirstValues(shared, stage, i > 0, weight, o);
    };
    // Its own products need no shared memory. Where keys come slower than they
    // are multiplied, the others' are first: they free the tile later.
    if constexpr (kBf16) multiply();
    if (i > 0) SyncThreads(kWeightsFree, 2 * kWarpgroup);
    StoreWeights(weight, upper, shared);
    if (thread % 4 == 0) {
      shared.keep[upper] = keep[0];
      shared.keep[upper + 8] = keep[1];
    }
    FenceSharedStores();
    ArriveThreads(kWeightsThere, 2 * kWarpgroup);
    if constexpr (!kBf16) multiply();
    WaitForProducts<0>();
    Release(args, &shared.empty[stage][0]);
  }
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    float sum = softmax.sum[half];
    sum += __shfl_xor_sync(0xffffffff, sum, 1);
    sum += __shfl_xor_sync(0xffffffff, sum, 2);
    const int row = upper + 8 * half;
    if (thread % 4 != 0) continue;
    shared.share[row] = args.splits > 1 ? 1.f : sum > 0 ? 1.f / sum : 0.f;
    if (args.splits > 1 && row < heads) {
      const int64_t to =
          (piece.token * args.num_heads + head + row) * args.splits +
          blockIdx.y;
      args.max[to] = softmax.max[half] * args.factor;
      args.sum[to] = sum;
    }
  }
  SyncThreads(kBoth, 2 * kWarpgroup);
  StoreValues(args, piece, head, heads, /*half=*/0, upper, o, shared);
}

template <bool kBf16>
__device__ void Follow(const Args& args, const Piece& piece, int head,
                       int heads, Shared& shared) {
  const int thread = static_cast<int>(threadIdx.x) % kWarpgroup;
  const int upper = thread / 32 * 16 + thread % 32 / 4;
  const int tiles = piece.tiles();
  float o[kHalf / 2];
#pragma unroll
  for (float& x : o) x = 0;
  for (int i = 0; i < tiles; ++i) {
    const int stage = i % kStages;
    SyncThreads(kWeightsThere, 2 * kWarpgroup);
    Rescale(o, shared.keep[upper], shared.keep[upper + 8]);
    // The copy engine's view of what threads wrote: each that multiplies has to
    // have seen the tile come.
#pragma unroll
    for (int box = kHalfBoxes; box < (kBf16 ? 2 * kHalfBoxes : kHalfBoxes + 1);
         ++box) {
      WaitForBox<kBf16>(shared, stage, box,
                        static_cast<uint32_t>(i / kStages % 2));
    }
    IssueOtherValues(shared, stage, i > 0, o);
    WaitForProducts<0>();
    if (i < tiles - 1) ArriveThreads(kWeightsFree, 2 * kWarpgroup);
    Release(args, &shared.empty[stage][1]);
  }
  SyncThreads(kBoth, 2 * kWarpgroup);
  StoreValues(args, piece, head, heads, /*half=*/1, upper, o, shared);
}

#endif  // STRATA_SM90A

// Block (token and group of 64 heads, piece).
template <bool kBf16>
__global__ void __launch_bounds__(kThreads, 1)
    LatentKernel(const Args args, const __grid_constant__ CUtensorMap map) {
#if STRATA_SM90A
  extern __shared__ char memory[];
  Shared& shared = *reinterpret_cast<Shared*>(
      (reinterpret_cast<uintptr_t>(memory) + kSwizzleBytes - 1) /
      kSwizzleBytes * kSwizzleBytes);
  if (threadIdx.x == 0) {
    for (int i = 0; i < kStages; ++i) {
      for (uint64_t& full : shared.full[i]) {
        InitBarrier(&full, kBf16 ? 1 : kWarpgroup);
      }
      for (uint64_t& empty : shared.empty[i]) InitBarrier(&empty, args.blocks);
    }
    FenceBarrierInit();
  }
  __syncthreads();
  if (args.blocks > 1) SyncCluster();
  const int64_t token = blockIdx.x / args.groups;
  const bool there = token < args.tokens.Get();
  Piece piece;
  bool ahead = !kBf16 && args.ahead && there;
  if (ahead) {
    piece = PieceOf(args);
    ahead = NewKeys(piece) <= kMaxNewKeys;
  }
  if (!ahead) {
    WaitForEarlier();
    LetLaterBegin();
    if (!there) return;
    piece = PieceOf(args);
  }
  const int head = static_cast<int>(blockIdx.x % args.groups) * kRows;
  const int heads = min(kRows, args.num_heads - head);
  TileRows second;
  if constexpr (!kBf16) {
    if (threadIdx.x < kWarpgroup) second = FindRows(args, piece, 1, piece.end);
    LoadFirst(args, piece, ahead, shared);
    FenceSharedStores();
    __syncthreads();
    if (ahead && threadIdx.x < kWarpgroup) LoadNew(args, piece, shared);
  }
  if (threadIdx.x >= kWarpgroup) ClearQueries(heads, shared);
  if (ahead) {
    WaitForEarlier();
    LetLaterBegin();
  }
  // 120, 216 and the 168 that each begins with: all there are.
  if (threadIdx.x < kWarpgroup) {
    ShrinkRegisters<120>();
    if constexpr (kBf16) {
      const int boxed = BoxedTiles(args, piece);
      if (threadIdx.x < 32) LoadBoxes(args, piece, boxed, &map, shared);
      // A barrier tells the phase before from the next, but no earlier one.
      SyncThreads(kLoaded, kWarpgroup);
      LoadCopied(args, piece, boxed, shared);
    } else {
      LoadFloats(args, piece, second, shared);
    }
  } else if (threadIdx.x < 2 * kWarpgroup) {
    GrowRegisters<216>();
    LoadQueries(args, token, head, heads, shared);
    SyncThreads(kBoth, 2 * kWarpgroup);
    Score<kBf16>(args, piece, head, heads, shared);
  } else {
    LoadQueries(args, token, head, heads, shared);
    SyncThreads(kBoth, 2 * kWarpgroup);
    Follow<kBf16>(args, piece, head, heads, shared);
  }
  // The other block may still write and arrive here.
  if (args.blocks > 1) SyncCluster();
#endif
}

// Rows of a BF16 cache that lie together wherever a box begins, if they fill
// rows of a swizzled tile: all of a sequence's, or what divides its blocks, and
// where pieces begin.
int RowsOfABox(const CachePlaces& places) {
  if (places.slots <= 0) return 0;
  if (places.table == nullptr) return kRows;
  const auto rows = std::gcd<int64_t>(places.block_size, kPieceKeys);
  return rows % 8 == 0 ? static_cast<int>(rows) : 0;
}

template <bool kBf16>
cudaError_t Launch(Args args, cudaStream_t stream) {
  CUtensorMap map = {};
  if (kBf16) args.box_rows = RowsOfABox(args.places);
  if (args.box_rows > 0) {
    BoxedTensor cache;
    cache.data = args.cache;
    cache.columns = cache.pitch = kLatentWidth;
    cache.rows = args.places.slots;
    cache.stride = cache.rows * cache.pitch;
    if (args.groups % 2 == 0) {
      args.blocks = 2;
      args.box_rows = std::min(args.box_rows, kRows / args.blocks);
    }
    cache.box_rows = args.box_rows;
    if (const cudaError_t e = MakeTensorMap(cache, &map)) return e;
  }
  auto* const kernel = LatentKernel<kBf16>;
  constexpr size_t kSharedBytes = sizeof(Shared) + kSwizzleBytes;
  static_assert(kSharedBytes <= 227 << 10, "a block's shared memory");
  const cudaError_t allowed = cudaFuncSetAttribute(
      reinterpret_cast<const void*>(kernel),
      cudaFuncAttributeMaxDynamicSharedMemorySize, kSharedBytes);
  if (allowed != cudaSuccess) return allowed;
  const dim3 grid(static_cast<unsigned>(args.tokens.bound * args.groups),
                  static_cast<unsigned>(args.splits));
  return LaunchClustersAhead(kernel, args.blocks, grid, dim3(kThreads),
                             kSharedBytes, stream, args, map);
}

int GroupsOf(const LatentDecodeArgs& args) {
  return (args.num_heads + kRows - 1) / kRows;
}

}  // namespace
}  // namespace latent

bool HasLatentDecode(int64_t rank, int64_t width) {
  return rank == kLatentRank && width == kLatentWidth && IsHopper();
}

int LatentSplits(const LatentDecodeArgs& args) {
  const int64_t blocks =
      std::max<int64_t>(1, args.tokens.bound * latent::GroupsOf(args));
  const int64_t pieces =
      (args.max_keys + latent::kPieceKeys - 1) / latent::kPieceKeys;
  return static_cast<int>(std::clamp<int64_t>(
      std::min(latent::kProcessors / blocks, pieces), 1, kMaxPieces));
}

int64_t LatentPieces(const LatentDecodeArgs& args) {
  return args.tokens.bound * args.num_heads * LatentSplits(args);
}

cudaError_t LatentDecode(const LatentDecodeArgs& args, cudaStream_t stream) {
  if (args.tokens.bound == 0) return cudaSuccess;
  if (args.max_keys > INT32_MAX - latent::kRows) return cudaErrorInvalidValue;
  latent::Args a;
  a.tokens = args.tokens;
  a.num_heads = args.num_heads;
  a.groups = latent::GroupsOf(args);
  a.splits = LatentSplits(args);
  a.factor = args.scale * 1.4426950408889634f;
  a.window = args.window;
  a.q = args.q;
  a.cache = args.cache;
  static_cast<CachePlaces&>(a.places) = args.places;
  a.partial = args.partial;
  a.max = args.max;
  a.sum = args.sum;
  a.o = args.o;
  a.fault = args.fault;
  a.ahead = args.old_keys_stay;
  a.piece_keys = args.bf16_cache ? latent::kPieceKeys : latent::kPieceKeysF32;
  const cudaError_t error = args.bf16_cache ? latent::Launch<true>(a, stream)
                                            : latent::Launch<false>(a, stream);
  if (error != cudaSuccess || a.splits == 1 || !args.join) return error;
  JoinArgs join;
  join.tokens = args.tokens;
  join.num_heads = args.num_heads;
  join.splits = a.splits;
  join.dim = kLatentRank;
  join.partial = args.partial;
  join.max = args.max;
  join.sum = args.sum;
  join.o = args.o;
  join.rounded = args.rounded;
  return JoinPieces(join, stream);
}

}  // namespace strata::gpu
