#include <algorithm>
#include <cmath>
#include <cstdint>

#include "cuda/kernels/ahead.cuh"
#include "cuda/kernels/sm90.cuh"
#include "cuda/kernels/sm90_product.cuh"
#include "cuda/kernels/store_rows.cuh"
#include "cuda/kernels/tensor_map.h"
#include "cuda/ops/cache_places.cuh"
#include "cuda/ops/decode/latent_decode.h"
#include "cuda/ops/vector16.cuh"
#include "cuda/runtime/kernel.h"
#include "cuda_bf16.h"

// A block has 64 heads of a token and a piece of its keys, 64 at a time:
//
//   warpgroup 0   brings keys into the next of two stages, swizzled as products
//                 want them; a cache may be F32, and blocks of it lie anywhere,
//                 so threads do this and not the copy engine
//   warpgroup 1   scores, softmax, and its weights into shared memory; then the
//                 first 256 columns of the values
//   warpgroup 2   the other 256, while the first one's softmax runs
//
// Keys are read once and serve as values too.

namespace strata::gpu {
namespace {

constexpr int kRows = 64;  // Heads, and keys of a stage.
constexpr int kStages = 2;
constexpr int kPieceKeys = 32;  // A multiple of it, but for the last piece.
constexpr int kThreads = 3 * kWarpgroup;
constexpr int kBoxes = kLatentWidth / kSwizzleColumns;
constexpr int kBoxElements = kRows * kSwizzleColumns;
constexpr int kBoxBytes = kBoxElements * 2;
constexpr int kHalf = kLatentRank / 2;  // Columns of a warpgroup's values.
// Multiprocessors of a Hopper GPU; a block takes one by itself.
constexpr int64_t kProcessors = 132;

struct Args {
  Extent tokens;
  int num_heads = 1, groups = 1, splits = 1;
  float factor = 1;  // Of scores, for powers of 2.
  int64_t window = 0;
  const float* q = nullptr;
  const void* cache = nullptr;
  Places places;
  float* partial = nullptr;
  float* max = nullptr;
  float* sum = nullptr;
  float* o = nullptr;
  FaultSink fault;
};

struct Shared {
  __nv_bfloat16 q[kBoxes][kBoxElements];
  __nv_bfloat16 keys[kStages][kBoxes][kBoxElements];
  __nv_bfloat16 p[kBoxElements];
  float keep[kRows];   // What earlier sums of a head are multiplied by.
  float share[kRows];  // What the last ones are.
  uint64_t full[kStages], empty[kStages];
};

#if STRATA_SM90A

// Barriers of the warpgroups that multiply.
enum BarrierId : int {
  kBoth = 1,      // Both, at the beginning and at the end.
  kWeightsFree,   // Warpgroup 2 has read the last weights.
  kWeightsThere,  // The next lie there.
  kScores,        // Warpgroup 1 alone.
};

struct Piece {
  int64_t token = 0;
  int begin = 0, end = 0;  // Keys.
  __device__ int tiles() const { return (end - begin + kRows - 1) / kRows; }
};

__device__ __forceinline__ Piece PieceOf(const Args& args) {
  Piece piece;
  piece.token = blockIdx.x / args.groups;
  const int64_t keys = args.places.NumKeys(piece.token, args.fault);
  const int64_t first =
      args.window > 0 ? max(int64_t{0}, keys - args.window) : 0;
  const int64_t size =
      ((keys - first + args.splits - 1) / args.splits + kPieceKeys - 1) /
      kPieceKeys * kPieceKeys;
  piece.begin = static_cast<int>(min(first + blockIdx.y * size, keys));
  piece.end = static_cast<int>(min(piece.begin + size, keys));
  return piece;
}

// Whether the phase of this parity has ended.
__device__ __forceinline__ bool IsOver(uint64_t* barrier, uint32_t parity) {
  uint32_t over;
  asm volatile(
      "{\n"
      ".reg .pred done;\n"
      "mbarrier.test_wait.parity.shared::cta.b64 done, [%1], %2;\n"
      "selp.u32 %0, 1, 0, done;\n"
      "}\n"
      : "=r"(over)
      : "r"(SharedAddress(barrier)), "r"(parity)
      : "memory");
  return over != 0;
}

// Where the 16-byte piece `chunk` of a row lies in a swizzled tile, in bytes.
__device__ __forceinline__ int SwizzledBytes(int row, int chunk) {
  return row * 128 + ((chunk ^ (row & 7)) << 4);
}

__device__ __forceinline__ uint4 Narrow(float4 a, float4 b) {
  const float element[8] = {a.x, a.y, a.z, a.w, b.x, b.y, b.z, b.w};
  return Pack(element);
}

// 16 bytes to shared memory, or zeros if not `there`; done when the group is.
__device__ __forceinline__ void CopyAsync(uint32_t to, const void* from,
                                          bool there) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(to),
               "l"(from), "r"(there ? 16 : 0)
               : "memory");
}
__device__ __forceinline__ void EndCopies() {
  asm volatile("cp.async.commit_group;" ::: "memory");
}
template <int kPending>
__device__ __forceinline__ void WaitForCopies() {
  asm volatile("cp.async.wait_group %0;" ::"n"(kPending) : "memory");
}

constexpr int kRowsAtATime = kWarpgroup / 8;

// Rows of an F32 cache, rounded: kSteps times 16 rows, those of kAhead boxes on
// their way at a time. `from` and `there` are of the thread's rows.
template <int kSteps, int kAhead>
__device__ __forceinline__ void LoadRounded(const float* cache,
                                            const int64_t* from,
                                            const bool* there, int row,
                                            int chunk, char* to) {
  for (int b = 0; b < kBoxes; b += kAhead) {
    float4 x[kAhead][kSteps][2];
#pragma unroll
    for (int j = 0; j < kAhead; ++j) {
#pragma unroll
      for (int s = 0; s < kSteps; ++s) {
        const auto* const pair = reinterpret_cast<const float4*>(
            cache + from[s] + (b + j) * kSwizzleColumns);
        const bool read = there[s] && b + j < kBoxes;
        x[j][s][0] = read ? pair[0] : float4{0, 0, 0, 0};
        x[j][s][1] = read ? pair[1] : float4{0, 0, 0, 0};
      }
    }
#pragma unroll
    for (int j = 0; j < kAhead; ++j) {
      if (b + j >= kBoxes) break;
#pragma unroll
      for (int s = 0; s < kSteps; ++s) {
        *reinterpret_cast<uint4*>(
            to + (b + j) * kBoxBytes +
            SwizzledBytes(s * kRowsAtATime + row, chunk)) =
            Narrow(x[j][s][0], x[j][s][1]);
      }
    }
  }
}

// By warpgroup 0: eight threads a row, 16 rows at a time.
template <bool kBf16>
__device__ void Load(const Args& args, const Piece& piece, Shared& shared) {
  constexpr int kSteps = kRows / kRowsAtATime;
  const int chunk = threadIdx.x % 8, row = threadIdx.x / 8;
  const int tiles = piece.tiles();
  const auto arrive = [&](int tile) {
    FenceSharedStores();
    Arrive(&shared.full[tile % kStages]);
  };
  for (int i = 0; i < tiles; ++i) {
    const int stage = i % kStages;
    const int first = piece.begin + i * kRows;
    int64_t from[kSteps];
    bool there[kSteps];
#pragma unroll
    for (int s = 0; s < kSteps; ++s) {
      const int key = first + s * kRowsAtATime + row;
      there[s] = key < piece.end;
      from[s] =
          args.places.RowOf(piece.token, min(key, piece.end - 1), args.fault) *
              kLatentWidth +
          chunk * 8;
    }
    uint64_t* const empty = &shared.empty[stage];
    const uint32_t parity = static_cast<uint32_t>(i / kStages % 2) ^ 1;
    if constexpr (kBf16) {
      // Where the stage is free already, two tiles are on their way; else the
      // last one is announced before the wait.
      const bool is_free = __all_sync(0xffffffff, IsOver(empty, parity));
      if (!is_free) {
        if (i > 0) {
          WaitForCopies<0>();
          arrive(i - 1);
        }
        Wait(empty, parity);
      }
      const auto* const cache = static_cast<const __nv_bfloat16*>(args.cache);
      const uint32_t to = SharedAddress(shared.keys[stage][0]);
#pragma unroll
      for (int b = 0; b < kBoxes; ++b) {
#pragma unroll
        for (int s = 0; s < kSteps; ++s) {
          CopyAsync(
              to + b * kBoxBytes + SwizzledBytes(s * kRowsAtATime + row, chunk),
              cache + from[s] + b * kSwizzleColumns, there[s]);
        }
      }
      EndCopies();
      if (is_free && i > 0) {
        WaitForCopies<1>();
        arrive(i - 1);
      }
    } else {
      Wait(empty, parity);
      const auto* const cache = static_cast<const float*>(args.cache);
      char* const to = reinterpret_cast<char*>(shared.keys[stage][0]);
      if (piece.end - first > kRows / 2) {
        LoadRounded<kSteps, 2>(cache, from, there, row, chunk, to);
      } else {
        LoadRounded<kSteps / 2, 4>(cache, from, there, row, chunk, to);
        for (int b = 0; b < kBoxes; ++b) {
#pragma unroll
          for (int s = kSteps / 2; s < kSteps; ++s) {
            *reinterpret_cast<uint4*>(
                to + b * kBoxBytes +
                SwizzledBytes(s * kRowsAtATime + row, chunk)) = {0, 0, 0, 0};
          }
        }
      }
      arrive(i);
    }
  }
  if (kBf16 && tiles > 0) {
    WaitForCopies<0>();
    arrive(tiles - 1);
  }
}

// The block's queries, rounded, by both warpgroups that multiply; zeros where
// there are fewer heads.
__device__ void LoadQueries(const Args& args, const Piece& piece, int head,
                            int heads, Shared& shared) {
  constexpr int kChunks = kLatentWidth / 8;
  char* const to = reinterpret_cast<char*>(shared.q[0]);
  const float* const from =
      args.q + (piece.token * args.num_heads + head) * kLatentWidth;
  constexpr int kStride = 2 * kWarpgroup, kBatch = 6;
  static_assert(kRows * kChunks % (kStride * kBatch) == 0, "whole batches");
  const int thread = static_cast<int>(threadIdx.x) - kWarpgroup;
  for (int base = thread; base < kRows * kChunks; base += kStride * kBatch) {
    uint4 x[kBatch];
#pragma unroll
    for (int j = 0; j < kBatch; ++j) {
      const int at = base + j * kStride;
      x[j] = {0, 0, 0, 0};
      if (at / kChunks < heads) {
        const auto* const pair = reinterpret_cast<const float4*>(
            from + at / kChunks * kLatentWidth + at % kChunks * 8);
        x[j] = Narrow(pair[0], pair[1]);
      }
    }
#pragma unroll
    for (int j = 0; j < kBatch; ++j) {
      const int row = (base + j * kStride) / kChunks;
      const int chunk = (base + j * kStride) % kChunks;
      *reinterpret_cast<uint4*>(to + chunk / 8 * kBoxBytes +
                                SwizzledBytes(row, chunk % 8)) = x[j];
    }
  }
  FenceSharedStores();
}

// o (+)= weights * the warpgroup's columns of the keys of `stage`.
__device__ __forceinline__ void IssueValues(const Shared& shared, int stage,
                                            int half, bool add,
                                            float (&o)[kHalf / 2]) {
  const uint64_t a = Describe(shared.p);
  const uint64_t b =
      Describe(shared.keys[stage][half * kHalf / kSwizzleColumns], kBoxBytes);
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
  float max[2] = {-INFINITY, -INFINITY};
  float sum[2] = {0, 0};  // This thread's part.
};

// Scores of a tile to weights in shared memory. `keys` of them are there.
__device__ __forceinline__ void Weigh(float (&score)[kRows / 2], float factor,
                                      int keys, Softmax& softmax,
                                      float (&keep)[2]) {
  const int lane = threadIdx.x % 4;
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    float largest = softmax.max[half];
#pragma unroll
    for (int g = 0; g < kRows / 8; ++g) {
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        float& x = score[4 * g + 2 * half + i];
        x = g * 8 + lane * 2 + i < keys ? x * factor : -INFINITY;
        largest = fmaxf(largest, x);
      }
    }
    largest = fmaxf(largest, __shfl_xor_sync(0xffffffff, largest, 1));
    largest = fmaxf(largest, __shfl_xor_sync(0xffffffff, largest, 2));
    keep[half] = exp2f(softmax.max[half] - largest);
    softmax.max[half] = largest;
    float part = 0;
#pragma unroll
    for (int g = 0; g < kRows / 8; ++g) {
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        float& x = score[4 * g + 2 * half + i];
        x = exp2f(x - largest);
        part += x;
      }
    }
    softmax.sum[half] = fmaf(softmax.sum[half], keep[half], part);
  }
}

__device__ __forceinline__ void StoreWeights(const float (&score)[kRows / 2],
                                             int upper, Shared& shared) {
  char* const to = reinterpret_cast<char*>(shared.p);
  const int lane = threadIdx.x % 4;
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const int row = upper + 8 * half;
#pragma unroll
    for (int g = 0; g < kRows / 8; ++g) {
      *reinterpret_cast<uint32_t*>(to + SwizzledBytes(row, g) + lane * 4) =
          Pair(score[4 * g + 2 * half], score[4 * g + 2 * half + 1]);
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
    Wait(&shared.full[stage], static_cast<uint32_t>(i / kStages % 2));
    BeginProducts();
#pragma unroll
    for (int q = 0; q < kLatentWidth / 16; ++q) {
      const uint64_t a = Describe(shared.q[q / 4]);
      const uint64_t b = Describe(shared.keys[stage][q / 4]);
      Multiply<kInner, kInner>(score, Advance(a, q % 4 * kStep16<kInner>),
                               Advance(b, q % 4 * kStep16<kInner>), q > 0);
    }
    EndProducts();
    WaitForProducts<0>();
    float keep[2];
    Weigh(score, args.factor, piece.end - piece.begin - i * kRows, softmax,
          keep);
    if (i > 0) SyncThreads(kWeightsFree, 2 * kWarpgroup);
    StoreWeights(score, upper, shared);
    if (thread % 4 == 0) {
      shared.keep[upper] = keep[0];
      shared.keep[upper + 8] = keep[1];
    }
    FenceSharedStores();
    SyncThreads(kScores, kWarpgroup);
    ArriveThreads(kWeightsThere, 2 * kWarpgroup);
    Rescale(o, keep[0], keep[1]);
    IssueValues(shared, stage, /*half=*/0, i > 0, o);
    WaitForProducts<0>();
    if (thread == 0) Arrive(&shared.empty[stage]);
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
      args.max[to] = softmax.max[half];
      args.sum[to] = sum;
    }
  }
  SyncThreads(kBoth, 2 * kWarpgroup);
  StoreValues(args, piece, head, heads, /*half=*/0, upper, o, shared);
}

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
    Wait(&shared.full[stage], static_cast<uint32_t>(i / kStages % 2));
    IssueValues(shared, stage, /*half=*/1, i > 0, o);
    WaitForProducts<0>();
    if (i < tiles - 1) ArriveThreads(kWeightsFree, 2 * kWarpgroup);
    if (thread == 0) Arrive(&shared.empty[stage]);
  }
  SyncThreads(kBoth, 2 * kWarpgroup);
  StoreValues(args, piece, head, heads, /*half=*/1, upper, o, shared);
}

#endif  // STRATA_SM90A

// Block (token and group of 64 heads, piece).
template <bool kBf16>
__global__ void __launch_bounds__(kThreads, 1) LatentKernel(const Args args) {
#if STRATA_SM90A
  extern __shared__ char memory[];
  Shared& shared = *reinterpret_cast<Shared*>(
      (reinterpret_cast<uintptr_t>(memory) + kSwizzleBytes - 1) /
      kSwizzleBytes * kSwizzleBytes);
  if (threadIdx.x == 0) {
    for (int i = 0; i < kStages; ++i) {
      InitBarrier(&shared.full[i], kWarpgroup);
      InitBarrier(&shared.empty[i], 2);
    }
    FenceBarrierInit();
  }
  __syncthreads();
  WaitForEarlier();
  LetLaterBegin();
  if (blockIdx.x / args.groups >= args.tokens.Get()) return;
  const Piece piece = PieceOf(args);
  const int head = static_cast<int>(blockIdx.x % args.groups) * kRows;
  const int heads = min(kRows, args.num_heads - head);
  // 120, 216 and the 168 that each begins with: all there are.
  if (threadIdx.x < kWarpgroup) {
    ShrinkRegisters<120>();
    Load<kBf16>(args, piece, shared);
  } else if (threadIdx.x < 2 * kWarpgroup) {
    GrowRegisters<216>();
    LoadQueries(args, piece, head, heads, shared);
    SyncThreads(kBoth, 2 * kWarpgroup);
    Score(args, piece, head, heads, shared);
  } else {
    LoadQueries(args, piece, head, heads, shared);
    SyncThreads(kBoth, 2 * kWarpgroup);
    Follow(args, piece, head, heads, shared);
  }
#endif
}

template <bool kBf16>
cudaError_t Launch(const Args& args, cudaStream_t stream) {
  auto* const kernel = LatentKernel<kBf16>;
  constexpr size_t kSharedBytes = sizeof(Shared) + kSwizzleBytes;
  static_assert(kSharedBytes <= 227 << 10, "a block's shared memory");
  const cudaError_t allowed = cudaFuncSetAttribute(
      reinterpret_cast<const void*>(kernel),
      cudaFuncAttributeMaxDynamicSharedMemorySize, kSharedBytes);
  if (allowed != cudaSuccess) return allowed;
  const dim3 grid(static_cast<unsigned>(args.tokens.bound * args.groups),
                  static_cast<unsigned>(args.splits));
  return LaunchAhead(kernel, grid, dim3(kThreads), kSharedBytes, stream, args);
}

int GroupsOf(const LatentDecodeArgs& args) {
  return (args.num_heads + kRows - 1) / kRows;
}

}  // namespace

bool HasLatentDecode(int64_t rank, int64_t width) {
  return rank == kLatentRank && width == kLatentWidth && IsHopper();
}

int LatentSplits(const LatentDecodeArgs& args) {
  const int64_t blocks =
      std::max<int64_t>(1, args.tokens.bound * GroupsOf(args));
  const int64_t pieces = (args.max_keys + kPieceKeys - 1) / kPieceKeys;
  return static_cast<int>(std::clamp<int64_t>(
      std::min(kProcessors / blocks, pieces), 1, kMaxPieces));
}

int64_t LatentPieces(const LatentDecodeArgs& args) {
  return args.tokens.bound * args.num_heads * LatentSplits(args);
}

cudaError_t LatentDecode(const LatentDecodeArgs& args, cudaStream_t stream) {
  if (args.tokens.bound == 0) return cudaSuccess;
  if (args.max_keys > INT32_MAX - kRows) return cudaErrorInvalidValue;
  Args a;
  a.tokens = args.tokens;
  a.num_heads = args.num_heads;
  a.groups = GroupsOf(args);
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
  const cudaError_t error =
      args.bf16_cache ? Launch<true>(a, stream) : Launch<false>(a, stream);
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
  return JoinPieces(join, stream);
}

}  // namespace strata::gpu
