#include <algorithm>
#include <cstdint>
#include <numeric>

#include "cuda.h"
#include "cuda/kernels/ahead.cuh"
#include "cuda/kernels/sm90.cuh"
#include "cuda/kernels/tensor_map.h"
#include "cuda/ops/decode/join_pieces.h"
#include "cuda/ops/decode/latent_codes.h"
#include "cuda/ops/decode/latent_decode.h"
#include "cuda/ops/decode/latent_keys.cuh"
#include "cuda/ops/decode/latent_products.cuh"
#include "cuda/ops/decode/latent_queries.cuh"
#include "cuda/ops/decode/latent_units.cuh"
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
// The first tile of an F32 cache all threads bring. Tiles that no earlier
// kernel writes come before these have ended: of an F32 cache the first, of a
// BF16 one as many as there are stages. Keys are read once and serve as values
// too. Where a token has an even number of such blocks, two of them are a
// cluster: each brings half of the keys, to both of them. With BF16 queries
// there are as many blocks as multiprocessors, each of which goes from one such
// unit to the next (latent_units.cuh).

namespace strata::gpu {
namespace latent {
namespace {

#if STRATA_SM90A

// Before what earlier kernels write is read, or anything stored: where keys
// come ahead, threads have not waited yet.
__device__ __forceinline__ void WaitBehindOldKeys(const Args& args) {
  if (!args.ahead) return;
  WaitForEarlier();
  LetLaterBegin();
}

// Warpgroup 0's part of all units: the second warp asks for BF16 queries, the
// first for keys, which do not wait for each other; the last one plans.
template <bool kBoxedQueries>
__device__ __forceinline__ void Bring(const Args& args, const CUtensorMap* keys,
                                      const CUtensorMap* queries,
                                      Shared& shared) {
  const int warp = static_cast<int>(threadIdx.x) / 32;
  Units units;
  if (kBoxedQueries && warp == 3) Plan(args, shared);
  Unit unit;
  for (int before = 0; units.Next(args, shared, unit);) {
    if (kBoxedQueries && warp == 1) {
      WaitBehindOldKeys(args);
      LoadQueryBoxes(args, unit, queries, shared);
    }
    const Piece piece = PieceOf(args, unit.token, unit.split);
    const int boxed = BoxedTiles(args, piece);
    if (warp == 0) LoadBoxes(args, piece, boxed, before, keys, shared);
    if (boxed < piece.tiles()) {
      // A barrier tells the phase before from the next, but no earlier one.
      SyncThreads(kLoaded, kWarpgroup);
      LoadCopied(args, piece, boxed, before, shared);
    }
    if constexpr (!kBoxedQueries) return;
    before += piece.tiles();
  }
}

// Warpgroup 1's or 2's part. F32 queries are of a block's only unit: in a loop
// over units, sums leave no registers to load several at a time.
template <bool kBoxedQueries, bool kScores>
__device__ __forceinline__ void Work(const Args& args, Shared& shared) {
  Units units;
  Unit unit;
  for (int before = 0; units.Next(args, shared, unit);) {
    if constexpr (!kBoxedQueries) {
      const int thread = static_cast<int>(threadIdx.x) - kWarpgroup;
      ClearQueries(unit.heads, thread, 2 * kWarpgroup, shared);
    }
    WaitBehindOldKeys(args);
    if constexpr (!kBoxedQueries) {
      LoadQueries<9>(args, unit, shared);
      SyncThreads(kBoth, 2 * kWarpgroup);
    }
    const Piece piece = PieceOf(args, unit.token, unit.split);
    if constexpr (kScores) {
      if constexpr (kBoxedQueries) {
        Wait(&shared.queries, static_cast<uint32_t>(unit.turn % 2));
      }
      Score<true>(args, unit, piece, before, shared);
    } else {
      Follow<true>(args, unit, piece, before, shared);
    }
    if constexpr (!kBoxedQueries) return;
    before += piece.tiles();
  }
}

#endif  // STRATA_SM90A

// A multiprocessor's only block, or the two of a cluster, with one unit after
// the other if queries are BF16: keys and queries of the next are on their way
// while results of the last are stored.
template <bool kBoxedQueries>
__global__ void __launch_bounds__(kThreads, 1)
    Bf16Kernel(const Args args, const __grid_constant__ CUtensorMap keys,
               const __grid_constant__ CUtensorMap queries) {
#if STRATA_SM90A
  extern __shared__ char memory[];
  Shared& shared = BeginShared<Shared>(args, /*arrivals=*/1, memory);
  if (threadIdx.x == 0) {
    if (args.box_rows > 0) PrefetchMap(&keys);
    if (kBoxedQueries) PrefetchMap(&queries);
  }
  // Where boxes have fewer rows, no box comes for the others.
  if constexpr (kBoxedQueries) {
    ClearQueries(args.boxed_q, static_cast<int>(threadIdx.x), kThreads, shared);
  }
  __syncthreads();
  if (args.blocks > 1) SyncCluster();
  if (!args.ahead) {
    WaitForEarlier();
    LetLaterBegin();
  }
  // 120, 216 and the 168 that each begins with: all there are.
  if (threadIdx.x < kWarpgroup) {
    ShrinkRegisters<120>();
    Bring<kBoxedQueries>(args, &keys, &queries, shared);
  } else if (threadIdx.x < 2 * kWarpgroup) {
    GrowRegisters<216>();
    Work<kBoxedQueries, /*kScores=*/true>(args, shared);
  } else {
    Work<kBoxedQueries, /*kScores=*/false>(args, shared);
  }
  WaitForEarlier();  // Also where there was no unit.
  // The other block may still write and arrive here.
  __syncwarp();
  if (args.blocks > 1) SyncCluster();
#endif
}

// Block (token and group of 64 heads, piece).
__global__ void __launch_bounds__(kThreads, 1) FloatKernel(const Args args) {
#if STRATA_SM90A
  extern __shared__ char memory[];
  Shared& shared = BeginShared<Shared>(args, kWarpgroup, memory);
  __syncthreads();
  Unit unit;
  unit.token = blockIdx.x / args.groups;
  unit.split = static_cast<int>(blockIdx.y);
  const bool there = unit.token < args.tokens.Get();
  Piece piece;
  bool ahead = args.ahead && there;
  if (ahead) {
    piece = PieceOf(args, unit.token, unit.split);
    ahead = NewKeys(piece) <= kMaxNewKeys;
  }
  if (!ahead) {
    WaitForEarlier();
    LetLaterBegin();
    if (!there) return;
    piece = PieceOf(args, unit.token, unit.split);
  }
  unit.head = static_cast<int>(blockIdx.x % args.groups) * kRows;
  unit.heads = min(kRows, args.num_heads - unit.head);
  TileRows second;
  if (threadIdx.x < kWarpgroup) second = FindRows(args, piece, 1, piece.end);
  LoadFirst(args, piece, ahead, shared);
  FenceSharedStores();
  __syncthreads();
  if (ahead && threadIdx.x < kWarpgroup) LoadNew(args, piece, shared);
  if (threadIdx.x >= kWarpgroup) {
    ClearQueries(unit.heads, static_cast<int>(threadIdx.x) - kWarpgroup,
                 2 * kWarpgroup, shared);
  }
  if (ahead) {
    WaitForEarlier();
    LetLaterBegin();
  }
  // As above.
  constexpr int kQueryBatch = 6;  // 16 heads in one.
  if (threadIdx.x < kWarpgroup) {
    ShrinkRegisters<120>();
    LoadFloats(args, piece, second, shared);
  } else if (threadIdx.x < 2 * kWarpgroup) {
    GrowRegisters<216>();
    LoadQueries<kQueryBatch>(args, unit, shared);
    SyncThreads(kBoth, 2 * kWarpgroup);
    Score<false>(args, unit, piece, /*before=*/0, shared);
  } else {
    LoadQueries<kQueryBatch>(args, unit, shared);
    SyncThreads(kBoth, 2 * kWarpgroup);
    Follow<false>(args, unit, piece, /*before=*/0, shared);
  }
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

constexpr size_t kSharedBytes = sizeof(Shared) + kSwizzleBytes;
static_assert(kSharedBytes <= 227 << 10, "a block's shared memory");

template <typename... Parameters>
cudaError_t AllowShared(void (*kernel)(Parameters...)) {
  return cudaFuncSetAttribute(reinterpret_cast<const void*>(kernel),
                              cudaFuncAttributeMaxDynamicSharedMemorySize,
                              kSharedBytes);
}

cudaError_t MapRows(const void* data, int64_t rows, int box_rows,
                    CUtensorMap* map) {
  BoxedTensor tensor;
  tensor.data = data;
  tensor.columns = tensor.pitch = kLatentWidth;
  tensor.rows = rows;
  tensor.stride = rows * tensor.pitch;
  tensor.box_rows = box_rows;
  return MakeTensorMap(tensor, map);
}

cudaError_t LaunchBf16(Args args, const __nv_bfloat16* q, cudaStream_t stream) {
  CUtensorMap keys = {}, queries = {};
  args.box_rows = RowsOfABox(args.places);
  if (args.box_rows > 0) {
    if (args.groups % 2 == 0) {
      args.blocks = 2;
      args.box_rows = std::min(args.box_rows, kRows / args.blocks);
    }
    if (const cudaError_t e =
            MapRows(args.cache, args.places.slots, args.box_rows, &keys)) {
      return e;
    }
  }
  if (q != nullptr) {
    args.boxed_q = std::min(args.num_heads, kRows);
    if (const cudaError_t e = MapRows(q, args.tokens.bound * args.num_heads,
                                      args.boxed_q, &queries)) {
      return e;
    }
  }
  auto* const kernel = q != nullptr ? Bf16Kernel<true> : Bf16Kernel<false>;
  if (const cudaError_t e = AllowShared(kernel)) return e;
  const int64_t units =
      args.tokens.bound * args.groups / args.blocks * args.splits;
  int64_t clusters = units;
  if (q != nullptr) {
    clusters = std::min(
        units, std::max<int64_t>(kProcessors / args.blocks,
                                 (units + kMaxPlanned) / (kMaxPlanned + 1)));
  }
  return LaunchClustersAhead(
      kernel, args.blocks, dim3(static_cast<unsigned>(clusters * args.blocks)),
      dim3(kThreads), kSharedBytes, stream, args, keys, queries);
}

cudaError_t LaunchFloat(const Args& args, cudaStream_t stream) {
  if (const cudaError_t e = AllowShared(FloatKernel)) return e;
  const dim3 grid(static_cast<unsigned>(args.tokens.bound * args.groups),
                  static_cast<unsigned>(args.splits));
  return LaunchAhead(FloatKernel, grid, dim3(kThreads), kSharedBytes, stream,
                     args);
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
  const bool is_bf16 = args.format == PackedFormat::kBf16;
  if (args.bf16_q != nullptr && !is_bf16) return cudaErrorInvalidValue;
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
  if (a.splits == 1) a.rounded = args.rounded;
  a.fault = args.fault;
  a.ahead = args.old_keys_stay;
  const bool is_f32 = args.format == PackedFormat::kF32;
  a.piece_keys = is_f32 ? latent::kPieceKeysF32 : latent::kPieceKeys;
  const cudaError_t error = is_f32 ? latent::LaunchFloat(a, stream)
                            : is_bf16
                                ? latent::LaunchBf16(a, args.bf16_q, stream)
                                : latent::LaunchCodes(a, args.format, stream);
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
