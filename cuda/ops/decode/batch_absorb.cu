#include <cstddef>
#include <cstdint>

#include "cuda/kernels/ahead.cuh"
#include "cuda/kernels/sm90.cuh"
#include "cuda/kernels/sm90_product.cuh"
#include "cuda/kernels/sm90_product_narrow.cuh"
#include "cuda/kernels/tensor_map.h"
#include "cuda/ops/decode/batch_absorb.h"
#include "cuda/ops/decode/latent_rows.cuh"
#include "cuda/ops/decode/latent_rows.h"
#include "cuda/ops/device.cuh"
#include "cuda/ops/vector16.cuh"
#include "cuda_bf16.h"

// A block has 64 rows of a head's W_K^T and all tokens:
//
//   thread 0      W_K^T by the copy engine, before earlier kernels have ended
//   warpgroup 0   q [t, nope] of the head, behind them: rounded, swizzled to
//                 shared memory, multiplied; sums [64 rows, t] are stored from
//                 registers
//   warpgroup 1   turns the head's rotary columns, of a share of the tokens
//
// and further blocks a token's row of the cache each. With up to 128 columns of
// nope all of it takes one round trip to L2 behind the wait, and the stores:
// nothing that is loaded says where something else is.

namespace strata::gpu {
namespace {

using namespace latent_rows;

constexpr int64_t kMaxTokens = 64;
constexpr int kMaxNope = 512;
constexpr int kMaxRope = 2 * kBlock;  // A pair a thread.
constexpr int kTile = 64;             // Rows of W_K^T.
constexpr int kRowBytes = kSwizzleColumns * 2;
constexpr int kTileBytes = kTile * kRowBytes;
constexpr int kMultiplied = 1;  // A barrier of the warps that multiply.
static_assert(kBlock == 2 * kWarpgroup);

// Of shared memory, of W_K^T and of q so many columns.
constexpr size_t SharedBytes(int tokens, int nope) {
  return kSwizzleBytes + size_t{2} * (kTile + tokens) * nope;
}

#if STRATA_SM90A

// How many tokens there are, not yet held to the bound: what compares it waits
// for it, so that comes behind other loads.
__device__ __forceinline__ int32_t LoadCount(const LatentRowsArgs& a) {
  return a.tokens.count != nullptr ? *a.tokens.count : INT32_MAX;
}

// --- A head's queries ---

// By a warpgroup: the head's q in BF16 to tiles [kTokens, 64] at `x`, with
// zeros beyond the bound. Rows beyond the count are no numbers, perhaps: a
// row's results are of that row alone, and theirs are not stored.
template <int kTokens>
__device__ __forceinline__ void LoadQueries(const LatentRowsArgs& a, int head,
                                            char* x) {
  constexpr int kFours = kSwizzleColumns / 4;  // Of a row of a tile.
  constexpr int kRowsAtATime = kWarpgroup / kFours;
  constexpr int kSteps = kTokens / kRowsAtATime;
  constexpr int kAtOnce = 2;  // Tiles whose loads are on their way together.
  static_assert(kRowsAtATime == 8);
  const int row = static_cast<int>(threadIdx.x) / kFours;
  const int four = static_cast<int>(threadIdx.x) % kFours;
  const int tokens = static_cast<int>(a.tokens.bound);
  const int columns = a.nope + a.rope, tiles = a.nope / kSwizzleColumns;
  const int64_t step = int64_t{kRowsAtATime} * a.num_heads * columns;
  const float* const from =
      a.q + (int64_t{row} * a.num_heads + head) * columns + four * 4;
  // As the copy engine swizzles: rows of a thread are eight apart, so that this
  // is the same for all of them.
  char* const to = x + row * kRowBytes + ((four / 2) ^ row) * 16 + four % 2 * 8;
#pragma unroll 1
  for (int tile = 0; tile < tiles; tile += kAtOnce) {
    float4 v[kAtOnce][kSteps];
#pragma unroll
    for (int k = 0; k < kAtOnce; ++k) {
#pragma unroll
      for (int i = 0; i < kSteps; ++i) {
        v[k][i] = {0, 0, 0, 0};
        if (tile + k < tiles && row + i * kRowsAtATime < tokens) {
          v[k][i] = *reinterpret_cast<const float4*>(
              from + i * step + (tile + k) * kSwizzleColumns);
        }
      }
    }
#pragma unroll
    for (int k = 0; k < kAtOnce; ++k) {
      if (tile + k >= tiles) break;
#pragma unroll
      for (int i = 0; i < kSteps; ++i) {
        const __nv_bfloat162 pair[2] = {
            __floats2bfloat162_rn(v[k][i].x, v[k][i].y),
            __floats2bfloat162_rn(v[k][i].z, v[k][i].w)};
        *reinterpret_cast<uint2*>(
            to + ((tile + k) * kTokens + i * kRowsAtATime) * kRowBytes) = {
            *reinterpret_cast<const uint32_t*>(&pair[0]),
            *reinterpret_cast<const uint32_t*>(&pair[1])};
      }
    }
  }
}

// By warpgroup 1: share `part` of `parts` of the tokens.
__device__ __forceinline__ void TurnQueriesOf(const LatentRowsArgs& a, int head,
                                              int part, int parts) {
  const int bound = static_cast<int>(a.tokens.bound), half = a.rope / 2;
  const int first = bound * part / parts;
  const int pairs = (bound * (part + 1) / parts - first) * half;
  const int32_t count = LoadCount(a);
  for (int i = static_cast<int>(threadIdx.x) - kWarpgroup; i < pairs;
       i += kWarpgroup) {
    const int token = first + i / half, j = i % half;
    // Rows are there up to the bound.
    const Pair pair = LoadPair(a, j, QueryTurns(a, token, head));
    const Angle angle = AngleOf(a, token, j);
    if (token < count) {
      StoreTurned(a, angle, j, pair, TurnedQuery(a, token, head));
    }
  }
}

template <int kTokens>
__device__ __forceinline__ void AbsorbTile(const LatentRowsArgs& a,
                                           const CUtensorMap* map, int tile) {
  extern __shared__ char memory[];
  char* const w = memory + (-SharedAddress(memory)) % kSwizzleBytes;
  __shared__ uint64_t full;
  const int chunks = a.nope / kSwizzleColumns;
  char* const x = w + chunks * kTileBytes;

  const int tiles = a.rank / kTile;  // Of a head.
  const int head = tile / tiles, part = tile % tiles;
  if (threadIdx.x == 0) {
    InitBarrier(&full, 1);
    FenceBarrierInit();
  }
  __syncthreads();
  if (threadIdx.x == 0) {
    ArriveExpecting(&full, chunks * kTileBytes);
    for (int c = 0; c < chunks; ++c) {
      LoadBox(map, w + c * kTileBytes, &full, c * kSwizzleColumns, tile * kTile,
              0);
    }
  }
  __syncwarp();  // A lane that waits would hold up the one that loads.
  LetLaterBegin();
  WaitForEarlier();
  if (threadIdx.x >= kWarpgroup) {
    TurnQueriesOf(a, head, part, tiles);
    return;
  }

  const int32_t count = LoadCount(a);
  LoadQueries<kTokens>(a, head, x);
  FenceSharedStores();
  SyncThreads(kMultiplied, kWarpgroup);
  Wait(&full, 0);
  float sum[kTokens / 2];
#pragma unroll
  for (float& s : sum) s = 0;
#pragma unroll 1
  for (int c = 0; c < chunks; ++c) {
    const uint64_t of_w = Describe(w + c * kTileBytes);
    const uint64_t of_x = Describe(x + c * kTokens * kRowBytes);
    BeginProducts();
#pragma unroll
    for (int q = 0; q < kSwizzleColumns / 16; ++q) {
      Multiply<kInner, kInner>(sum, Advance(of_w, q * kStep16<kInner>),
                               Advance(of_x, q * kStep16<kInner>), /*add=*/1);
    }
    EndProducts();
    WaitForProducts<1>();
  }
  WaitForProducts<0>();

  const int tokens = min(count, static_cast<int>(a.tokens.bound));
  // Eight lanes have neighbouring columns of a token: 32 bytes, a sector.
  const int lane = Lane();
  const int column =
      part * kTile + static_cast<int>(threadIdx.x) / kWarp * 16 + lane / 4;
  const int64_t width = a.rank + a.rope, pitch = a.num_heads * width;
  float* const to = a.absorbed + head * width + column;
#pragma unroll
  for (int g = 0; g < kTokens / 8; ++g) {
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const int token = 8 * g + lane % 4 * 2 + i;
      if (token >= tokens) continue;
      to[token * pitch] = sum[4 * g + i];
      to[token * pitch + 8] = sum[4 * g + 2 + i];
    }
  }
}

// --- A token's row of the cache ---

template <typename Element>
__device__ __forceinline__ void StoreToken(const LatentRowsArgs& a,
                                           int64_t token) {
  float gain[kOfThread];
  LoadGain(a, gain);
  LetLaterBegin();
  WaitForEarlier();
  // Rows are there up to the bound, those of the cache up to the count.
  const int32_t count = LoadCount(a);
  const int32_t to = a.row[token];
  const auto find_row = [&] {
    return token < count ? CacheRow<Element>(a, token, to) : nullptr;
  };
  if constexpr (kIsCode<Element>) {
    StoreInCodes(a, token, gain, find_row);
  } else {
    const int j = static_cast<int>(threadIdx.x);
    const bool turns = j < a.rope / 2;
    Angle angle = {1, 0};
    Pair pair = {0, 0};
    if (turns) {
      angle = AngleOf(a, token, j);
      pair = LoadPair(a, j, KeyTurns(a, token), KeyBias(a));
    }
    Element* row = nullptr;
    StoreNorm<Element>(a, token, gain, [&] {
      row = find_row();
      return row;
    });
    if (turns && row != nullptr) StoreTurned(a, angle, j, pair, row + a.rank);
  }
}

#endif  // STRATA_SM90A

// Blocks of tiles first, as they take longest, then those of tokens.
template <int kTokens, typename Element>
__global__ void __launch_bounds__(kBlock, 2)
    BatchAbsorbKernel(const LatentRowsArgs a,
                      const __grid_constant__ CUtensorMap map) {
#if STRATA_SM90A
  const int block = static_cast<int>(blockIdx.x);
  const int tiles = a.num_heads * (a.rank / kTile);
  if (block < tiles) {
    AbsorbTile<kTokens>(a, &map, block);
  } else {
    StoreToken<Element>(a, block - tiles);
  }
#endif
}

template <int kTokens, typename Element>
cudaError_t Launch(const LatentRowsArgs& args, const CUtensorMap& w,
                   cudaStream_t stream) {
  auto* const kernel = BatchAbsorbKernel<kTokens, Element>;
  // Of any launch: a captured one that wants more than the last was allowed
  // would never find room.
  const cudaError_t allowed =
      cudaFuncSetAttribute(reinterpret_cast<const void*>(kernel),
                           cudaFuncAttributeMaxDynamicSharedMemorySize,
                           static_cast<int>(SharedBytes(kTokens, kMaxNope)));
  if (allowed != cudaSuccess) return allowed;
  const int64_t blocks =
      args.num_heads * int64_t{args.rank / kTile} + args.tokens.bound;
  return LaunchAhead(kernel, dim3(static_cast<unsigned>(blocks)), dim3(kBlock),
                     SharedBytes(kTokens, args.nope), stream, args, w);
}

template <int kTokens>
cudaError_t LaunchFor(const LatentRowsArgs& args, const CUtensorMap& w,
                      cudaStream_t stream) {
  switch (args.stored.format) {
    case PackedFormat::kF32:
      return Launch<kTokens, float>(args, w, stream);
    case PackedFormat::kBf16:
      return Launch<kTokens, __nv_bfloat16>(args, w, stream);
    default:
      return Launch<kTokens, Code>(args, w, stream);
  }
}

}  // namespace

bool HasBatchAbsorb(const LatentRowsArgs& args) {
  return StoresLatents(args) && args.tokens.bound >= 1 &&
         args.tokens.bound <= kMaxTokens && args.nope > 0 &&
         args.nope <= kMaxNope && args.nope % kSwizzleColumns == 0 &&
         args.rank > 0 && args.rank % kTile == 0 && args.rope % 4 == 0 &&
         args.rope <= kMaxRope && IsAligned(args.q) &&
         int64_t{args.num_heads} * args.rank <= INT32_MAX / 2 && IsHopper();
}

cudaError_t BatchAbsorb(const LatentRowsArgs& args, const __nv_bfloat16* w,
                        cudaStream_t stream) {
  if (args.tokens.bound == 0) return cudaSuccess;
  if (!HasBatchAbsorb(args) || !IsAligned(w)) return cudaErrorInvalidValue;
  BoxedTensor box;
  box.data = w;
  box.columns = box.pitch = args.nope;
  box.rows = int64_t{args.num_heads} * args.rank;
  box.box_rows = kTile;
  CUtensorMap map = {};
  if (const cudaError_t e = MakeTensorMap(box, &map); e) return e;
  const int tokens = NarrowColumns(args.tokens.bound);
  return tokens == 16   ? LaunchFor<16>(args, map, stream)
         : tokens == 32 ? LaunchFor<32>(args, map, stream)
                        : LaunchFor<64>(args, map, stream);
}

}  // namespace strata::gpu
