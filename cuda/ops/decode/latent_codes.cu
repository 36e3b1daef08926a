#include <cstddef>
#include <cstdint>
#include <type_traits>

#include "cuda/kernels/ahead.cuh"
#include "cuda/kernels/sm90.cuh"
#include "cuda/ops/cache/packed_format.h"
#include "cuda/ops/decode/code_rows.cuh"
#include "cuda/ops/decode/latent_codes.h"
#include "cuda/ops/decode/latent_keys.cuh"
#include "cuda/ops/decode/latent_products.cuh"
#include "cuda/ops/decode/latent_queries.cuh"
#include "cuda/ops/decode/latent_units.cuh"
#include "cuda/ops/device.cuh"
#include "cuda/runtime/kernel.h"

// A block has 64 heads of a token and a piece of its keys, 64 at a time. What
// it does with them is what LatentDecode() does with a BF16 cache; how they
// come:
//
//   warpgroup 0      each warp has 16 rows of a tile: the copy engine brings
//                    them as they are, two tiles ahead; the warp widens 256
//                    columns of them, then the other 320, in registers while
//                    the tile before is multiplied, and stores them as soon as
//                    these columns of the only stage are free
//   warpgroups 1, 2  scores of the columns that are there, weights, values
//
// Queries of 64 heads leave no room for a second stage, and weights are stored
// where the rotary columns of keys were, which are no values.

namespace strata::gpu::latent {
namespace {

constexpr int kWideners = kWarpgroup / kWarp;
constexpr int kRowsOfWarp = kRows / kWideners;
static_assert(kRowsOfWarp == 16);

template <PackedFormat kFormat>
struct CodesShared : SharedOf<1> {
  using Rows = CodeRows<kFormat>;

  static constexpr int kPlaces = 2;  // Of a warp, each for its rows of a tile.
  static constexpr int kPlaceBytes = kRowsOfWarp * Rows::kSlotBytes;
  uint64_t there[kWideners][kPlaces];
  // Where rows are, from a place's begin on: those that are not there are
  // zeros.
  int at[kWideners][kPlaces][kRowsOfWarp];
  alignas(16) uint8_t codes[kWideners][kPlaces][kPlaceBytes];
  alignas(16) uint8_t zeros[Rows::kSlotBytes];
};

#if STRATA_SM90A

// What x is made of is not moved behind what follows.
__device__ __forceinline__ void KeepHere(uint4& x) {
  asm volatile("" : "+r"(x.x), "+r"(x.y), "+r"(x.z), "+r"(x.w));
}

// By warp `warp` of those that widen: its rows of all tiles.
template <PackedFormat kFormat>
__device__ __forceinline__ void BringCodes(const Args& args, const Piece& piece,
                                           int warp,
                                           CodesShared<kFormat>& shared) {
  using Rows = CodeRows<kFormat>;
  constexpr int kPlaces = CodesShared<kFormat>::kPlaces;
  const int tiles = piece.tiles();
  // Of the warp's rows of a tile, one of the first eight lanes; else none.
  const auto find_row = [&](int tile) {
    const int key = piece.begin + tile * kRows + warp * kRowsOfWarp + Lane();
    return Lane() < kRowsOfWarp && key < piece.end
               ? static_cast<int>(
                     args.places.RowOf(piece.token, key, args.fault))
               : -1;
  };
  const auto ask = [&](int tile, int row) {
    const int first = piece.begin + tile * kRows + warp * kRowsOfWarp;
    if (args.ahead && min(first + kRowsOfWarp, piece.end) > piece.old) {
      WaitForEarlier();
    }
    const int place = tile % kPlaces;
    uint8_t* const codes = shared.codes[warp][place];
    int* const at = &shared.at[warp][place][Lane() % kRowsOfWarp];
    if (Lane() < kRowsOfWarp && row < 0) {
      *at = static_cast<int>(shared.zeros - codes);
    }
    Rows::Ask(static_cast<const uint8_t*>(args.cache), args.places.slots, row,
              codes, at, &shared.there[warp][place]);
  };
  for (int i = 0; i < min(kPlaces, tiles); ++i) ask(i, find_row(i));
  // Two eights of rows together, so that instructions of one are there while
  // others wait.
  constexpr int kEights = kRowsOfWarp / 8;
  int to[kEights];
#pragma unroll
  for (int e = 0; e < kEights; ++e) {
    to[e] = SwizzledBytes(warp * kRowsOfWarp + e * 8 + Lane() % 8,
                          Rows::OfLane::Piece());
  }
  // Boxes [first, end) of two rows, widened before those of the stage are free:
  // the first four are of the first half's values, the others of the other's.
  const auto bring = [&](const auto& row, auto first, auto end,
                         uint32_t parity) {
    constexpr int kFirst = decltype(first)::value;
    constexpr int kCount = decltype(end)::value - kFirst;
    uint4 a[kCount][kEights], b[kCount][kEights];
#pragma unroll
    for (int j = 0; j < kCount; ++j) {
#pragma unroll
      for (int e = 0; e < kEights; ++e) {
        row[e].Widen(row[e].Load(kFirst + j), a[j][e], b[j][e]);
        KeepHere(a[j][e]);
        KeepHere(b[j][e]);
      }
    }
    Wait(&shared.empty[0][kFirst > 0 ? 1 : 0], parity);
#pragma unroll
    for (int j = 0; j < kCount; ++j) {
      const uint32_t keys = SharedAddress(shared.keys[0][kFirst + j]);
#pragma unroll
      for (int e = 0; e < kEights; ++e) {
        Rows::StoreFour(keys + to[e], a[j][e]);
        Rows::StoreFour(keys + (to[e] ^ Rows::OfLane::kStep * 16), b[j][e]);
      }
    }
    FenceSharedStores();
    __syncwarp();
    if (Lane() < kCount) Arrive(&shared.full[0][kFirst + Lane()]);
  };
  for (int i = 0; i < tiles; ++i) {
    const int next = find_row(i + kPlaces);
    const auto parity = static_cast<uint32_t>(i % 2);
    const int place = i % kPlaces;
    Wait(&shared.there[warp][place], static_cast<uint32_t>(i / kPlaces % 2));
    const uint8_t* const codes = shared.codes[warp][place];
    const int* const at = &shared.at[warp][place][Lane() % 8];
    const typename Rows::OfLane row[kEights] = {
        typename Rows::OfLane(codes + at[0]),
        typename Rows::OfLane(codes + at[8])};
    bring(row, std::integral_constant<int, 0>{},
          std::integral_constant<int, kHalfBoxes>{}, parity ^ 1);
    bring(row, std::integral_constant<int, kHalfBoxes>{},
          std::integral_constant<int, kBoxes>{}, parity ^ 1);
    if (i + kPlaces < tiles) ask(i + kPlaces, next);
  }
}

#endif  // STRATA_SM90A

// Block (token and group of 64 heads, piece).
template <PackedFormat kFormat>
__global__ void __launch_bounds__(kThreads, 1)
    CodesKernel(const __grid_constant__ Args args) {
#if STRATA_SM90A
  extern __shared__ char memory[];
  auto& shared = BeginShared<CodesShared<kFormat>>(args, kWideners, memory);
  const int thread = static_cast<int>(threadIdx.x);
  if (thread == 0) {
    for (auto& of_warp : shared.there) {
      for (uint64_t& there : of_warp) InitBarrier(&there, 1);
    }
    FenceBarrierInit();
  }
  if (thread < CodeRows<kFormat>::kSlotBytes / 16) {
    *reinterpret_cast<uint4*>(shared.zeros + thread * 16) = {0, 0, 0, 0};
  }
  const auto begin_behind_earlier = [] {
    WaitForEarlier();
    LetLaterBegin();
  };
  if (!args.ahead) begin_behind_earlier();
  __syncthreads();
  Unit unit;
  unit.token = blockIdx.x / args.groups;
  unit.split = static_cast<int>(blockIdx.y);
  if (unit.token >= args.tokens.Get()) {
    if (args.ahead) begin_behind_earlier();
    return;
  }
  const Piece piece = PieceOf(args, unit.token, unit.split);
  unit.head = static_cast<int>(blockIdx.x % args.groups) * kRows;
  unit.heads = min(kRows, args.num_heads - unit.head);
  constexpr int kQueryBatch = 6;  // 16 heads in one.
  if (thread < kWarpgroup) {
    ShrinkRegisters<120>();
    BringCodes(args, piece, thread / kWarp, shared);
    WaitForEarlier();
    return;
  }
  ClearQueries(unit.heads, thread - kWarpgroup, 2 * kWarpgroup, shared);
  if (args.ahead) begin_behind_earlier();
  if (thread < 2 * kWarpgroup) {
    GrowRegisters<216>();
    LoadQueries<kQueryBatch>(args, unit, shared);
    SyncThreads(kBoth, 2 * kWarpgroup);
    Score<true>(args, unit, piece, /*before=*/0, shared);
  } else {
    LoadQueries<kQueryBatch>(args, unit, shared);
    SyncThreads(kBoth, 2 * kWarpgroup);
    Follow<true>(args, unit, piece, /*before=*/0, shared);
  }
#endif
}

template <PackedFormat kFormat>
cudaError_t Launch(const Args& args, cudaStream_t stream) {
  constexpr size_t kBytes = sizeof(CodesShared<kFormat>) + kSwizzleBytes;
  static_assert(kBytes <= 227 << 10, "a block's shared memory");
  const cudaError_t allowed = cudaFuncSetAttribute(
      reinterpret_cast<const void*>(CodesKernel<kFormat>),
      cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(kBytes));
  if (allowed != cudaSuccess) return allowed;
  const dim3 grid(static_cast<unsigned>(args.tokens.bound * args.groups),
                  static_cast<unsigned>(args.splits));
  return LaunchAhead(CodesKernel<kFormat>, grid, dim3(kThreads), kBytes, stream,
                     args);
}

}  // namespace

cudaError_t LaunchCodes(const Args& args, PackedFormat format,
                        cudaStream_t stream) {
  return format == PackedFormat::kInt8
             ? Launch<PackedFormat::kInt8>(args, stream)
             : Launch<PackedFormat::kInt4>(args, stream);
}

}  // namespace strata::gpu::latent
