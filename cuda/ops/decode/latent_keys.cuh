// The keys of a piece, brought to shared memory tile by tile: one warpgroup's
// part of latent decode attention (latent_decode.cu).

#ifndef CUDA_OPS_DECODE_LATENT_KEYS_CUH_
#define CUDA_OPS_DECODE_LATENT_KEYS_CUH_

#include <cstdint>

#include "cuda/kernels/ahead.cuh"
#include "cuda/kernels/sm90.cuh"
#include "cuda/ops/decode/copy_async.cuh"
#include "cuda/ops/decode/latent_decode.h"
#include "cuda/ops/heads/cache_places.cuh"
#include "cuda/ops/vector16.cuh"
#include "cuda/runtime/kernel.h"
#include "cuda_bf16.h"

namespace strata::gpu::latent {

constexpr int kRows = 64;  // Heads, and keys of a stage.
constexpr int kStages = 2;
// A multiple of it, but for the last piece: of a BF16 cache that comes by
// boxes, and of an F32 one, whose pieces are short so that all blocks have
// some.
constexpr int kPieceKeys = 32, kPieceKeysF32 = 16;
constexpr int kThreads = 3 * kWarpgroup;
constexpr int kBoxes = kLatentWidth / kSwizzleColumns;
constexpr int kBoxElements = kRows * kSwizzleColumns;
constexpr int kBoxBytes = kBoxElements * 2;
constexpr int kHalf = kLatentRank / 2;  // Columns of a warpgroup's values.
constexpr int kHalfBoxes = kHalf / kSwizzleColumns;

// Barriers of threads.
enum BarrierId : int {
  kBoth = 1,      // Warpgroups 1 and 2, as a unit begins and as it ends.
  kLoaded,        // Warpgroup 0.
  kWeightsFree,   // Warpgroup 2 has read the last weights.
  kWeightsThere,  // The next lie there.
  kScored,        // Warpgroup 1 has its first scores.
};

// Units of a cluster behind its first that are planned (latent_units.cuh).
constexpr int kMaxPlanned = 128;

struct Args {
  Extent tokens;
  int num_heads = 1, groups = 1, splits = 1;
  float factor = 1;  // Of scores, for powers of 2.
  int64_t window = 0;
  const float* q = nullptr;
  int boxed_q = 0;  // Rows of a box of BF16 queries; 0: they are F32.
  const void* cache = nullptr;
  Places places;
  int box_rows = 0;  // Of the map of the cache, that lie together; 0: no map.
  int blocks = 1;    // Of a cluster: they share the keys of a token.
  int piece_keys = kPieceKeys;
  bool ahead = false;  // Old keys are there before earlier kernels have ended.
  float* partial = nullptr;
  float* max = nullptr;
  float* sum = nullptr;
  float* o = nullptr;
  __nv_bfloat16* rounded = nullptr;  // In place of o.
  FaultSink fault;
};

// Of a block, with so many stages of keys.
template <int kDepth>
struct SharedOf {
  static constexpr int kStages = kDepth;

  __nv_bfloat16 q[kBoxes][kBoxElements];
  __nv_bfloat16 keys[kStages][kBoxes][kBoxElements];
  // Weights; of one stage they lie where the box of keys was that is no value.
  __nv_bfloat16 p[kDepth > 1 ? kBoxElements : kSwizzleColumns];
  float keep[kRows];  // What earlier sums of a head are multiplied by.
  // What the last ones are: of a unit and of the next one, which may be there
  // while the other's results are stored.
  float share[2][kRows];
  uint64_t full[kStages][kBoxes];  // Of F32 caches the first, for all boxes.
  uint64_t empty[kStages][2];      // Of each warpgroup's half of the values.
  uint64_t queries, queries_free;  // Of BF16 queries.
  uint64_t planned;
  int plan[kMaxPlanned + 1];  // One that is beyond all ends it.

  __device__ __forceinline__ __nv_bfloat16* Weights() {
    return kDepth > 1 ? p : keys[0][kBoxes - 1];
  }
};
using Shared = SharedOf<kStages>;

#if STRATA_SM90A

// At the first place in a block's memory that can be swizzled, with barriers
// that are ready behind the block's barrier. A box of keys is there when so
// many have arrived.
template <typename S>
__device__ __forceinline__ S& BeginShared(const Args& args, int arrivals,
                                          char* memory) {
  S& shared = *reinterpret_cast<S*>(
      (reinterpret_cast<uintptr_t>(memory) + kSwizzleBytes - 1) /
      kSwizzleBytes * kSwizzleBytes);
  if (threadIdx.x == 0) {
    for (int i = 0; i < S::kStages; ++i) {
      for (uint64_t& full : shared.full[i]) InitBarrier(&full, arrivals);
      for (uint64_t& empty : shared.empty[i]) InitBarrier(&empty, args.blocks);
    }
    InitBarrier(&shared.queries, 1);
    InitBarrier(&shared.queries_free, kWarpgroup / 32);
    InitBarrier(&shared.planned, 1);
    FenceBarrierInit();
  }
  return shared;
}

struct Piece {
  int64_t token = 0;
  int begin = 0, end = 0;  // Keys.
  int old = 0;             // Those before it no kernel that still runs writes.
  __device__ int tiles() const { return (end - begin + kRows - 1) / kRows; }
};

__device__ __forceinline__ Piece PieceOf(const Args& args, int64_t token,
                                         int split) {
  Piece piece;
  piece.token = token;
  // 32 bits, as every block waits for these divisions.
  const auto keys =
      static_cast<int>(args.places.NumKeys(piece.token, args.fault));
  const int first = args.window > 0 && args.window < keys
                        ? keys - static_cast<int>(args.window)
                        : 0;
  const int least = (keys - first + args.splits - 1) / args.splits;
  const int size =
      (least + args.piece_keys - 1) / args.piece_keys * args.piece_keys;
  piece.begin = static_cast<int>(
      min(first + int64_t{split} * size, static_cast<int64_t>(keys)));
  piece.end = min(piece.begin + size, keys);
  piece.old = args.ahead ? keys - static_cast<int>(args.tokens.bound) : 0;
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

constexpr int kRowsAtATime = kWarpgroup / 8;

// Boxes [begin, end) of rows of an F32 cache, rounded: kUsed times 16 rows,
// those of kAhead boxes on their way at a time. The thread's rows are `rows`,
// -1 those that are not there.
template <int kUsed, int kAhead>
__device__ __forceinline__ void LoadRounded(const float* cache, const int* rows,
                                            int row, int chunk, int begin,
                                            int end, char* to) {
  for (int b = begin; b < end; b += kAhead) {
    float4 x[kAhead][kUsed][2];
#pragma unroll
    for (int j = 0; j < kAhead; ++j) {
#pragma unroll
      for (int s = 0; s < kUsed; ++s) {
        const auto* const pair = reinterpret_cast<const float4*>(
            cache + int64_t{rows[s]} * kLatentWidth + chunk * 8 +
            (b + j) * kSwizzleColumns);
        const bool read = rows[s] >= 0 && b + j < end;
        x[j][s][0] = read ? pair[0] : float4{0, 0, 0, 0};
        x[j][s][1] = read ? pair[1] : float4{0, 0, 0, 0};
      }
    }
#pragma unroll
    for (int j = 0; j < kAhead; ++j) {
      if (b + j >= end) break;
#pragma unroll
      for (int s = 0; s < kUsed; ++s) {
        *reinterpret_cast<uint4*>(
            to + (b + j) * kBoxBytes +
            SwizzledBytes(s * kRowsAtATime + row, chunk)) =
            Narrow(x[j][s][0], x[j][s][1]);
      }
    }
  }
}

// Rows of the cache that a thread has eight columns of, of a tile of keys; -1:
// not there.
constexpr int kSteps = kRows / kRowsAtATime;
struct TileRows {
  int row[kSteps];
};

// Those of tile `tile`, of keys before `last`.
__device__ __forceinline__ TileRows FindRows(const Args& args,
                                             const Piece& piece, int tile,
                                             int last) {
  const int thread = static_cast<int>(threadIdx.x) % kWarpgroup;
  TileRows rows;
#pragma unroll
  for (int s = 0; s < kSteps; ++s) {
    const int key = piece.begin + tile * kRows + s * kRowsAtATime + thread / 8;
    rows.row[s] =
        key < last
            ? static_cast<int>(args.places.RowOf(piece.token, key, args.fault))
            : -1;
  }
  return rows;
}

// A tile of which no row is beyond the first kUsed times 16, by a warpgroup:
// those, and zeros for the others.
template <int kUsed, int kAhead>
__device__ __forceinline__ void LoadTile(const float* cache,
                                         const TileRows& rows, char* to) {
  const int thread = static_cast<int>(threadIdx.x) % kWarpgroup;
  const int chunk = thread % 8, row = thread / 8;
  LoadRounded<kUsed, kAhead>(cache, rows.row, row, chunk, 0, kBoxes, to);
#pragma unroll 1
  for (int b = 0; b < kBoxes; ++b) {
#pragma unroll
    for (int s = kUsed; s < kSteps; ++s) {
      *reinterpret_cast<uint4*>(
          to + b * kBoxBytes + SwizzledBytes(s * kRowsAtATime + row, chunk)) = {
          0, 0, 0, 0};
    }
  }
}

// Keys of the first tile that earlier kernels may still write.
__device__ __forceinline__ int NewKeys(const Piece& piece) {
  return max(0,
             min(piece.end, piece.begin + kRows) - max(piece.old, piece.begin));
}
// More of them are brought with the old ones, behind the wait.
constexpr int kMaxNewKeys = 16;

// The first tile of a piece of an F32 cache, by all threads, each warpgroup
// three of the boxes. Where keys are brought ahead, the old ones: LoadNew()
// does the others.
__device__ __forceinline__ void LoadFirst(const Args& args, const Piece& piece,
                                          bool ahead, Shared& shared) {
  constexpr int kOfWarpgroup = kBoxes * kWarpgroup / kThreads;
  static_assert(kOfWarpgroup * kThreads == kBoxes * kWarpgroup);
  const int thread = static_cast<int>(threadIdx.x) % kWarpgroup;
  const int chunk = thread % 8, row = thread / 8;
  const TileRows rows =
      FindRows(args, piece, 0, ahead ? min(piece.old, piece.end) : piece.end);
  const int box = static_cast<int>(threadIdx.x) / kWarpgroup * kOfWarpgroup;
  LoadRounded<kSteps, kOfWarpgroup>(
      static_cast<const float*>(args.cache), rows.row, row, chunk, box,
      box + kOfWarpgroup, reinterpret_cast<char*>(shared.keys[0][0]));
}

// By warpgroup 0, which waits for earlier kernels: the first tile's new keys,
// whose rows it looks up before. Others have stored zeros there.
__device__ __forceinline__ void LoadNew(const Args& args, const Piece& piece,
                                        Shared& shared) {
  constexpr int kChunks = kLatentWidth / 8;
  constexpr int kBatch = 5;  // Eight rows take that.
  const int first = max(piece.old, piece.begin);
  const int all = NewKeys(piece) * kChunks;
  char* const to = reinterpret_cast<char*>(shared.keys[0][0]);
  bool waited = false;
  for (int base = threadIdx.x; base < all || !waited;
       base += kBatch * kWarpgroup) {
    const float4* from[kBatch];
    int row[kBatch], chunk[kBatch];
#pragma unroll
    for (int j = 0; j < kBatch; ++j) {
      const int at = base + j * kWarpgroup;
      row[j] = first + at / kChunks;
      chunk[j] = at % kChunks;
      from[j] = nullptr;
      if (at >= all) continue;
      from[j] = reinterpret_cast<const float4*>(
          static_cast<const float*>(args.cache) +
          args.places.RowOf(piece.token, row[j], args.fault) * kLatentWidth +
          chunk[j] * 8);
    }
    if (!waited) WaitForEarlier();
    waited = true;
    float4 x[kBatch][2];
#pragma unroll
    for (int j = 0; j < kBatch; ++j) {
      if (from[j] == nullptr) continue;
      x[j][0] = __ldcg(from[j]);
      x[j][1] = __ldcg(from[j] + 1);
    }
#pragma unroll
    for (int j = 0; j < kBatch; ++j) {
      if (from[j] == nullptr) continue;
      *reinterpret_cast<uint4*>(
          to + chunk[j] / 8 * kBoxBytes +
          SwizzledBytes(row[j] - piece.begin, chunk[j] % 8)) =
          Narrow(x[j][0], x[j][1]);
    }
  }
}

// Tiles of a piece that come by boxes: those that are full, if they begin where
// a box does.
__device__ __forceinline__ int BoxedTiles(const Args& args,
                                          const Piece& piece) {
  if (args.box_rows == 0) return 0;
  if (args.places.table != nullptr && piece.begin % args.box_rows != 0)
    return 0;
  return (piece.end - piece.begin) / kRows;
}

// Before a tile of keys from `first` on is asked for.
__device__ __forceinline__ void WaitForNewKeys(const Args& args,
                                               const Piece& piece, int first) {
  if (args.ahead && min(first + kRows, piece.end) > piece.old) WaitForEarlier();
}

// By the first warp, of which a lane a box's rows asks for them. Blocks of a
// cluster bring a share of a tile's rows each, to all of them. A half of a tile
// comes as soon as all have multiplied the values that lay there. `before` are
// the tiles of the units before.
__device__ inline void LoadBoxes(const Args& args, const Piece& piece,
                                 int tiles, int before, const CUtensorMap* map,
                                 Shared& shared) {
  const int share = kRows / args.blocks;
  const int lane = static_cast<int>(threadIdx.x);
  const int at = lane * args.box_rows;
  const bool loads = at < share;
  const int row = static_cast<int>(blockIdx.x) % args.blocks * share + at;
  const uint64_t policy =
      args.blocks == args.groups ? ReadOnce() : ReadByOthers();
  for (int i = 0; i < tiles; ++i) {
    const int stage = (before + i) % kStages;
    const uint32_t parity =
        static_cast<uint32_t>((before + i) / kStages % 2) ^ 1;
    int from = 0;
    if (loads) {
      from = static_cast<int>(args.places.RowOf(
          piece.token, piece.begin + i * kRows + row, args.fault));
    }
    WaitForNewKeys(args, piece, piece.begin + i * kRows);
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      Wait(&shared.empty[stage][half], parity);
      const int end = half == 0 ? kHalfBoxes : kBoxes;
      for (int b = half * kHalfBoxes; b < end; ++b) {
        uint64_t* const full = &shared.full[stage][b];
        if (lane == 0) ArriveExpecting(full, kBoxBytes);
        if (!loads) continue;
        __nv_bfloat16* const to = shared.keys[stage][b] + row * kSwizzleColumns;
        const int column = b * kSwizzleColumns;
        if (args.blocks > 1) {
          LoadBoxToAll(map, to, full, column, from, 0, /*blocks=*/3, policy);
        } else {
          LoadBox(map, to, full, column, from, 0, policy);
        }
      }
    }
  }
}

// By warpgroup 0, of a BF16 cache, tiles from `boxed` on: eight threads a row,
// 16 rows at a time.
__device__ inline void LoadCopied(const Args& args, const Piece& piece,
                                  int boxed, int before, Shared& shared) {
  const int chunk = threadIdx.x % 8, row = threadIdx.x / 8;
  const int tiles = piece.tiles();
  const auto arrive = [&](int tile) {
    FenceSharedStores();
    SyncThreads(kLoaded, kWarpgroup);
    uint64_t* const full = shared.full[(before + tile) % kStages];
    if (threadIdx.x < kBoxes) Arrive(&full[threadIdx.x]);
  };
  for (int i = boxed; i < tiles; ++i) {
    const int stage = (before + i) % kStages;
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
    uint64_t* const empty = shared.empty[stage];
    const uint32_t parity =
        static_cast<uint32_t>((before + i) / kStages % 2) ^ 1;
    // Where the stage is free already, two tiles are on their way; else the
    // last one is announced before the wait.
    const bool is_free = __all_sync(
        0xffffffff, IsOver(&empty[0], parity) && IsOver(&empty[1], parity));
    if (!is_free) {
      if (i > boxed) {
        WaitForCopies<0>();
        arrive(i - 1);
      }
      Wait(&empty[0], parity);
      Wait(&empty[1], parity);
    }
    WaitForNewKeys(args, piece, first);
    const auto* const cache = static_cast<const __nv_bfloat16*>(args.cache);
    char* const to = reinterpret_cast<char*>(shared.keys[stage][0]);
#pragma unroll
    for (int b = 0; b < kBoxes; ++b) {
#pragma unroll
      for (int s = 0; s < kSteps; ++s) {
        CopyAsync16(
            to + b * kBoxBytes + SwizzledBytes(s * kRowsAtATime + row, chunk),
            cache + from[s] + b * kSwizzleColumns, there[s]);
      }
    }
    EndCopies();
    if (is_free && i > boxed) {
      WaitForCopies<1>();
      arrive(i - 1);
    }
  }
  if (tiles > boxed) {
    WaitForCopies<0>();
    arrive(tiles - 1);
  }
}

// By warpgroup 0, of an F32 cache, tiles from the second on, whose rows are
// `next`; the first is there. A tile's rows are looked up while the one before
// it is on its way, and few rows are, all columns of them, at once.
__device__ inline void LoadFloats(const Args& args, const Piece& piece,
                                  TileRows next, Shared& shared) {
  const int tiles = piece.tiles();
  const auto arrive = [&](int tile) {
    FenceSharedStores();
    Arrive(shared.full[tile % kStages]);
  };
  if (tiles > 0) arrive(0);
  for (int i = 1; i < tiles; ++i) {
    const int stage = i % kStages;
    const TileRows rows = next;
    next = FindRows(args, piece, i + 1, piece.end);
    uint64_t* const empty = shared.empty[stage];
    const uint32_t parity = static_cast<uint32_t>(i / kStages % 2) ^ 1;
    Wait(&empty[0], parity);
    Wait(&empty[1], parity);
    const auto* const cache = static_cast<const float*>(args.cache);
    char* const to = reinterpret_cast<char*>(shared.keys[stage][0]);
    const int keys = piece.end - piece.begin - i * kRows;
    if (keys > 2 * kRowsAtATime) {
      LoadTile<kSteps, 2>(cache, rows, to);
    } else if (keys > kRowsAtATime) {
      LoadTile<2, 4>(cache, rows, to);
    } else {
      LoadTile<1, kBoxes>(cache, rows, to);
    }
    arrive(i);
  }
}

#endif  // STRATA_SM90A

}  // namespace strata::gpu::latent

#endif  // CUDA_OPS_DECODE_LATENT_KEYS_CUH_
