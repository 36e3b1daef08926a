// What a block of a cluster has in shared memory for attention over a sixteenth
// of a token's keys (latent_values.cu), and how q and keys get there.

#ifndef CUDA_OPS_DECODE_LATENT_VALUES_CUH_
#define CUDA_OPS_DECODE_LATENT_VALUES_CUH_

#include <cstddef>
#include <cstdint>

#include "cuda/kernels/sm90.cuh"
#include "cuda/ops/cache/packed_format.h"
#include "cuda/ops/decode/code_rows.cuh"
#include "cuda/ops/decode/copy_async.cuh"
#include "cuda/ops/decode/few_rows_tile.cuh"
#include "cuda/ops/decode/latent_decode.h"
#include "cuda/ops/device.cuh"
#include "cuda/ops/heads/cache_places.cuh"
#include "cuda_bf16.h"

namespace strata::gpu::latent_values {

constexpr int kBlocks = 16;  // Of a cluster, as many as it has heads.
constexpr int kHeads = 16;
constexpr int kWarps = 16;
constexpr int kThreads = kWarps * kWarp;
// So that a block finds room beside one of the kernel before it.
constexpr int kRegisters = 104;
constexpr int kKeys = 64;  // Of a tile.
// Keys of a token, times tokens, beyond which more blocks with fewer keys each
// are faster (docs/performance_mixtures.md).
constexpr int64_t kMaxKeys = 1536;
constexpr int kMaxValue = kTileRows * kWarps / 2;
constexpr int kVectors = kLatentWidth / 4;  // Of a row of q or the cache.
// Rows in shared memory begin at other banks.
constexpr int kPitch = kLatentWidth + 8;
constexpr int kQuarters = 4;  // Of the columns that scores are summed over.
constexpr int kSteps = kLatentWidth / 16 / kQuarters;
constexpr int kWeightPitch = kKeys + 8;
constexpr int kValueColumns = kLatentRank / kWarps;  // Of a warp.
// Units of W_V that a warp takes, and those that it has before the wait.
constexpr int kUnits = kLatentRank / 2 / Bf16Tile::kColumns;
constexpr int kEarlyUnits = 3;  // As many as there are registers for.

struct Args {
  Extent tokens;
  int num_heads, groups, value;
  float factor;  // Of scores, for powers of 2.
  int64_t window;
  const float* q;
  const void* cache;  // As the kernel's format says.
  Places places;
  PackedRows w;
  float* y;
  FaultSink fault;
};

// What a block's keys make of a head, not yet divided by the sum of weights.
struct alignas(16) Sums {
  __nv_bfloat16 o[kLatentRank];
  float largest, weights;  // Score, sum of weights.
};
static_assert(sizeof(Sums) % 32 == 16);  // Rows begin at other banks.

struct alignas(16) Shared {
  __nv_bfloat16 q[kHeads][kPitch];
  __nv_bfloat16 key[kKeys][kPitch];
  Sums sums[kHeads];
  struct {
    Sums sums;
    uint4 pad[3];       // As few_rows_tile.cuh's RowBytes() has it.
  } of_block[kBlocks];  // Of the block's own head: what others send, and its.
  float score[kQuarters][kHeads][kKeys];
  __nv_bfloat16 weight[kHeads][kWeightPitch];
  float keep[kHeads];  // What earlier sums of a head are multiplied by.
  float part[2][kMaxValue];
  // Of rows of the cache: addresses, of one in codes numbers.
  uint64_t place[kKeys];
  int at[kKeys];   // Where rows in codes lie, of a warp's.
  uint64_t there;  // The barrier of `of_block`, and of codes.
  uint64_t codes;
};
static_assert(offsetof(Shared, sums) % 16 == 0 &&
              offsetof(Shared, of_block) % 16 == 0 &&
              offsetof(Shared, weight) % 16 == 0);

// Of a cache in codes, the tile's rows as they are, behind it.
template <PackedFormat kFormat>
constexpr size_t SharedBytes() {
  if constexpr (IsInCodes(kFormat)) {
    return sizeof(Shared) + kKeys * CodeRows<kFormat>::kSlotBytes;
  } else {
    return sizeof(Shared);
  }
}

#if STRATA_SM90A

// --- Tiles of 16 x 16 BF16 from shared memory ---

__device__ __forceinline__ void LoadTransposed(uint32_t (&x)[4],
                                               const void* at) {
  asm volatile(
      "ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
      : "=r"(x[0]), "=r"(x[1]), "=r"(x[2]), "=r"(x[3])
      : "r"(SharedAddress(at))
      : "memory");
}
__device__ __forceinline__ void LoadMatrices(uint32_t (&x)[4], const void* at) {
  asm volatile(
      "ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
      : "=r"(x[0]), "=r"(x[1]), "=r"(x[2]), "=r"(x[3])
      : "r"(SharedAddress(at))
      : "memory");
}

// --- q and keys ---

__device__ __forceinline__ void StoreRounded(__nv_bfloat16* to, float4 x) {
  const __nv_bfloat162 low = __floats2bfloat162_rn(x.x, x.y);
  const __nv_bfloat162 high = __floats2bfloat162_rn(x.z, x.w);
  *reinterpret_cast<uint2*>(to) = {*reinterpret_cast<const uint32_t*>(&low),
                                   *reinterpret_cast<const uint32_t*>(&high)};
}

__device__ __forceinline__ void StoreRounded(__nv_bfloat16 (*rows)[kPitch],
                                             int at, float4 x) {
  StoreRounded(&rows[at / kVectors][at % kVectors * 4], x);
}

// What a block keeps of a row.
template <PackedFormat kFormat>
__device__ __forceinline__ uint64_t PlaceOf(const Args& a, int64_t row) {
  if constexpr (IsInCodes(kFormat)) {
    return static_cast<uint64_t>(row);
  } else {
    constexpr int kBytes = kFormat == PackedFormat::kF32 ? 4 : 2;
    return reinterpret_cast<uint64_t>(static_cast<const char*>(a.cache) +
                                      row * kLatentWidth * kBytes);
  }
}

// Row `i` of the tile in an F32 or BF16 cache.
template <typename Key>
__device__ __forceinline__ const Key* KeyAt(const Shared& shared, int i) {
  return reinterpret_cast<const Key*>(shared.place[i]);
}

// Vector `at` of the tile's rows. No cache but L2 is asked, which others write.
__device__ __forceinline__ float4 LoadKey(const Shared& shared, int at) {
  return __ldcg(
      reinterpret_cast<const float4*>(KeyAt<float>(shared, at / kVectors)) +
      at % kVectors);
}

// Keys [begin, end) of the tile of a BF16 cache, on their way at once; they are
// there behind WaitForCopies16().
__device__ __forceinline__ void CopyKeys(int begin, int end, Shared& shared) {
  constexpr int kChunks = kLatentWidth / 8;
#pragma unroll 1
  for (int at = begin * kChunks + static_cast<int>(threadIdx.x);
       at < end * kChunks; at += kThreads) {
    const int row = at / kChunks, column = at % kChunks * 8;
    CopyAsync16(&shared.key[row][column],
                KeyAt<__nv_bfloat16>(shared, row) + column);
  }
}

// Room for a warp's rows in codes.
template <PackedFormat kFormat>
__device__ __forceinline__ uint8_t* CodesOf(Shared& shared, int warp) {
  return reinterpret_cast<uint8_t*>(&shared + 1) +
         warp * kWarp * CodeRows<kFormat>::kSlotBytes;
}

// The same of a cache in codes, as they are: behind the barrier for them.
constexpr int kAskingWarps = kKeys / kWarp;
template <PackedFormat kFormat>
__device__ __forceinline__ void CopyCodes(const Args& a, int begin, int end,
                                          Shared& shared) {
  const int i = static_cast<int>(threadIdx.x);
  if (i >= kAskingWarps * kWarp) return;
  CodeRows<kFormat>::Ask(
      static_cast<const uint8_t*>(a.cache), a.places.slots,
      i >= begin && i < end ? static_cast<int>(shared.place[i]) : -1,
      CodesOf<kFormat>(shared, i / kWarp), &shared.at[i], &shared.codes);
}

// Those, when they are there, in BF16; for the block a barrier follows.
// `phase`: of their barrier, 0 at first.
template <PackedFormat kFormat>
__device__ __forceinline__ void WidenCodes(int begin, int end, uint32_t& phase,
                                           Shared& shared) {
  Wait(&shared.codes, phase);
  phase ^= 1;
  using Rows = CodeRows<kFormat>;
  const int first = begin / 8, last = (end + 7) / 8;
#pragma unroll 1
  for (int job = static_cast<int>(threadIdx.x) / kWarp;
       job < (last - first) * Rows::kPairs; job += kWarps) {
    const int row = (first + job / Rows::kPairs) * 8 + Lane() % 8;
    if (row < begin || row >= end) continue;
    const typename Rows::OfLane lane(CodesOf<kFormat>(shared, row / kWarp) +
                                     shared.at[row]);
    const int pair = job % Rows::kPairs;
    const uint32_t to =
        SharedAddress(&shared.key[row][pair * 2 * kPackedGroup]) +
        lane.Piece() * 16;
    uint4 first, second;
    lane.Widen(lane.Load(pair), first, second);
    Rows::StoreFour(to, first);
    Rows::StoreFour(to + lane.kStep * 16, second);
  }
}

// The first `count` keys of the tile of an F32 cache, at most kRows of them on
// their way to a warp at once.
template <int kRows>
__device__ __forceinline__ void BringFloats(int count, Shared& shared) {
  constexpr int kLoads = (kRows * kVectors + kWarp - 1) / kWarp;
  static_assert(kVectors % (kWarp / 2) == 0);
  const int lane = Lane();
  const int rows = min(kRows, (count + kWarps - 1) / kWarps);
  // Of the vectors of all rows, those from j * kWarp on: a warp may have the
  // end of one row and the beginning of the next.
  const auto row_of = [&](int j) {
    return j * kWarp % kVectors > kVectors - kWarp && lane >= kWarp / 2
               ? j * kWarp / kVectors + 1
               : j * kWarp / kVectors;
  };
#pragma unroll 1
  for (int first = static_cast<int>(threadIdx.x) / kWarp * rows; first < count;
       first += kWarps * rows) {
    const int last = min(rows, count - first);
    float4 x[kLoads];
#pragma unroll
    for (int j = 0; j < kLoads; ++j) {
      const int r = row_of(j);
      if (r < last) {
        x[j] = __ldcg(
            reinterpret_cast<const float4*>(KeyAt<float>(shared, first + r)) +
            lane + j * kWarp - r * kVectors);
      }
    }
#pragma unroll
    for (int j = 0; j < kLoads; ++j) {
      const int r = row_of(j);
      if (r < last) {
        StoreRounded(
            &shared.key[first + r][(lane + j * kWarp - r * kVectors) * 4],
            x[j]);
      }
    }
  }
}

// The first `count` keys of the tile.
template <PackedFormat kFormat, int kRows>
__device__ __forceinline__ void BringKeys(const Args& a, int count,
                                          Shared& shared) {
  if constexpr (kFormat == PackedFormat::kF32) {
    BringFloats<kRows>(count, shared);
  } else if constexpr (kFormat == PackedFormat::kBf16) {
    CopyKeys(0, count, shared);
  } else {
    CopyCodes<kFormat>(a, 0, count, shared);
  }
}

// Weights of keys that are not there are 0, and what they count must be finite.
__device__ __forceinline__ void ClearKeys(int begin, Shared& shared) {
  const int last = (begin + 15) / 16 * 16 * kVectors;
#pragma unroll 1
  for (int at = begin * kVectors + static_cast<int>(threadIdx.x); at < last;
       at += kThreads) {
    StoreRounded(shared.key, at, {0, 0, 0, 0});
  }
}

// All heads' q and keys [begin, end), on their way at once.
template <PackedFormat kFormat>
__device__ __forceinline__ void BringQueries(const Args& a, const float4* q,
                                             int begin, int end,
                                             Shared& shared) {
  constexpr int kCount = kHeads * kVectors;
  constexpr int kAtATime = (kCount + kThreads - 1) / kThreads;
  const int thread = static_cast<int>(threadIdx.x);
  constexpr bool kRounds = kFormat == PackedFormat::kF32;
  if constexpr (kFormat == PackedFormat::kBf16) {
    CopyKeys(begin, end, shared);
  } else if constexpr (!kRounds) {
    CopyCodes<kFormat>(a, begin, end, shared);
  }
  const int last = kRounds ? end * kVectors : 0;
  int key = begin * kVectors + thread;
  float4 x[kAtATime], y = {0, 0, 0, 0};
#pragma unroll
  for (int j = 0; j < kAtATime; ++j) {
    const int at = thread + j * kThreads;
    if (at < kCount) x[j] = __ldcg(q + at);
  }
  if (key < last) y = LoadKey(shared, key);
#pragma unroll
  for (int j = 0; j < kAtATime; ++j) {
    const int at = thread + j * kThreads;
    if (at < kCount) StoreRounded(shared.q, at, x[j]);
  }
  if (key < last) StoreRounded(shared.key, key, y);
#pragma unroll 1
  for (key += kThreads; key < last; key += kThreads) {
    StoreRounded(shared.key, key, LoadKey(shared, key));
  }
}

#endif  // STRATA_SM90A

}  // namespace strata::gpu::latent_values

#endif  // CUDA_OPS_DECODE_LATENT_VALUES_CUH_
