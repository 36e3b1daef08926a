// The warps of a tile that load (sm90_quant_product.cuh): codes with their
// scales and zeros, as they are stored, and blocks of 64 columns of x.
//
// Codes lie in rows of 128 bytes, swizzled as the copy engine does it: 16-byte
// piece i of row r at i ^ r % 8.

#ifndef CUDA_KERNELS_SM90_QUANT_LOAD_CUH_
#define CUDA_KERNELS_SM90_QUANT_LOAD_CUH_

#include <cstdint>

#include "cuda/kernels/ahead.cuh"
#include "cuda/kernels/packed_chunk.cuh"
#include "cuda/kernels/sm90.cuh"
#include "cuda/kernels/sm90_quant_tile.cuh"
#include "cuda/kernels/store_rows.cuh"

namespace strata::gpu {

#if STRATA_SM90A

// A box as LoadBox's, to L2.
__device__ __forceinline__ void PrefetchBox(const CUtensorMap* map, int x,
                                            int y) {
  asm volatile(
      "cp.async.bulk.prefetch.tensor.3d.L2.global [%0, {%1, %2, %3}];" ::"l"(
          map),
      "r"(x), "r"(y), "r"(0)
      : "memory");
}

// Where the 16 bytes of a stage's scales begin in a row, and those of its
// zeros.
struct GroupPlace {
  int scale, zero;
};
template <int kBits>
__device__ __forceinline__ GroupPlace PlaceOfGroups(const PackedRows& w,
                                                    int stage) {
  const int first = FirstGroup<kBits>(w, stage);
  return {w.code_bytes + 2 * first / kGroupBytes * kGroupBytes,
          w.code_bytes + 2 * w.num_groups + first / kGroupBytes * kGroupBytes};
}

struct CodeMaps {
  const CUtensorMap* code;
  const CUtensorMap* group;  // Boxes of 16 bytes.
};

// By one thread.
template <int kBits, int kTokens>
__device__ __forceinline__ void CopyStage(const PackedRows& w, CodeMaps maps,
                                          int stage, int64_t w_row, int slot,
                                          Shared<kTokens>& shared) {
  const auto row = static_cast<int>(w_row);
  const GroupPlace place = PlaceOfGroups<kBits>(w, stage);
  uint64_t* const full = &shared.code_full[slot];
  ArriveExpecting(
      full, kTileColumns * (kCodeBytes + kGroupBytes * (w.symmetric ? 1 : 2)));
  LoadBox(maps.code, shared.code[slot], full, stage * kCodeBytes, row, 0);
  LoadBox(maps.group, shared.scale[slot], full, place.scale, row, 0);
  if (!w.symmetric) {
    LoadBox(maps.group, shared.zero[slot], full, place.zero, row, 0);
  }
}

// `n` bytes, those that are there.
__device__ __forceinline__ void FillBytes(const uint8_t* from, int there,
                                          uint8_t* to) {
#pragma unroll 1
  for (int i = 0; i < kGroupBytes; ++i) to[i] = i < there ? __ldg(from + i) : 0;
}

// The same of any rows, by the warps that do not load x.
template <int kBits, int kTokens>
__device__ __forceinline__ void FillStage(const PackedRows& w, int64_t rows,
                                          int stage, int64_t w_row, int slot,
                                          Shared<kTokens>& shared) {
  constexpr int kPieces = kCodeBytes / 16;
  constexpr int kThreads = (kProducerWarps - 1) * 32;
  const GroupPlace place = PlaceOfGroups<kBits>(w, stage);
  const auto bytes = static_cast<int>(w.row_bytes);
  for (int i = static_cast<int>(threadIdx.x); i < kTileColumns * kPieces;
       i += kThreads) {
    const int r = i / kPieces, piece = i % kPieces;
    const uint8_t* const row = w.data + min(w_row + r, rows - 1) * w.row_bytes;
    const int at = stage * kCodeBytes + piece * 16;
    uint2 low = {0, 0}, high = {0, 0};
    if (at < w.code_bytes) {  // Which is a multiple of 16.
      low = LoadUnaligned(row + at);
      high = LoadUnaligned(row + at + 8);
    }
    *reinterpret_cast<uint4*>(
        &shared.code[slot][r * kCodeBytes + ((piece ^ r % 8) * 16)]) = {
        low.x, low.y, high.x, high.y};
    if (piece == 0) {
      FillBytes(row + place.scale, bytes - place.scale,
                &shared.scale[slot][r * kGroupBytes]);
    } else if (piece == 1 && !w.symmetric) {
      FillBytes(row + place.zero, bytes - place.zero,
                &shared.zero[slot][r * kGroupBytes]);
    }
  }
  Arrive(&shared.code_full[slot]);
}

// By the warps that do not load x. Codes of a dense product come before earlier
// kernels have ended.
template <int kBits, int kTokens>
__device__ __forceinline__ void LoadCodes(const ManyRowsArgs& args,
                                          CodeMaps maps,
                                          Shared<kTokens>& shared) {
  using T = Tile<kTokens>;
  const QuantProductArgs& p = args.product;
  const bool speaks = threadIdx.x == 0;
  const Range<kBits> range(args);
  if (p.num_experts > 0 || p.rows.count != nullptr) {
    if (p.num_experts == 0 && args.copied && speaks) {
      // Whether its rows of x are there is not known.
      const int unit = static_cast<int>(blockIdx.y) /
                       min(args.token_tiles, Units<kTokens>::kBand) *
                       args.pairs;
      const int column =
          (unit + static_cast<int>(blockIdx.x) % args.pairs) * kTileColumns;
      const int last = min(range.end, range.begin + T::kCodeStages);
      for (int c = range.begin; c < last; ++c) {
        PrefetchBox(maps.code, c * kCodeBytes, column);
      }
    }
    WaitForEarlier();
  }
  Ring<T::kCodeStages> ring;
  const int64_t rows = p.w.n * max(1, p.num_experts);
  for (Units<kTokens> units(args); units.Next();) {
    for (int c = range.begin; c < range.end; ++c, ring.Next()) {
      if (args.copied) {
        if (speaks) {
          Wait(&shared.code_empty[ring.stage], ring.phase ^ 1);
          CopyStage<kBits>(p.w, maps, c, units.w_row, ring.stage, shared);
        }
        continue;
      }
      Wait(&shared.code_empty[ring.stage], ring.phase ^ 1);
      FillStage<kBits>(p.w, rows, c, units.w_row, ring.stage, shared);
    }
  }
  WaitForEarlier();
}

// By one warp, behind WaitForEarlier().
template <int kBits, int kTokens>
__device__ __forceinline__ void LoadX(const ManyRowsArgs& args,
                                      const CUtensorMap* map,
                                      Shared<kTokens>& shared) {
  using T = Tile<kTokens>;
  const bool speaks = threadIdx.x % 32 == 0;
  const Range<kBits> range(args);
  // Of a pair each loads half of the rows for both.
  const int rank = static_cast<int>(blockIdx.x);
  const int half = args.pairs == 2 ? rank % 2 * (kTokens / 2) : 0;
  const auto both = static_cast<uint16_t>(3 << (rank & ~1));
  Ring<T::kXStages> ring;
  for (Units<kTokens> units(args); units.Next();) {
    if (!speaks) continue;
    for (int b = 0; b < range.blocks; ++b, ring.Next()) {
      uint64_t* const full = &shared.x_full[ring.stage];
      Wait(&shared.x_empty[ring.stage], ring.phase ^ 1);
      ArriveExpecting(full, kTokens * kDepth * 2);
      const int column = (range.first_block + b) * kDepth;
      const int row = static_cast<int>(units.tile.row) + half;
      __nv_bfloat16* const to = shared.x[ring.stage] + half * kDepth;
      if (args.pairs == 2) {
        LoadBoxToAll(map, to, full, column, row, 0, both);
      } else {
        LoadBox(map, to, full, column, row, 0);
      }
    }
  }
}

// The same by all that multiply, of a tile's x that has room in the stages:
// eight columns a thread, in the order of slots (quant_round.h), swizzled.
template <int kBits, int kTokens>
__device__ __forceinline__ void RoundX(const ManyRowsArgs& args,
                                       const RowTile& tile,
                                       Shared<kTokens>& shared) {
  constexpr int kThreads = Tile<kTokens>::kMultipliers * kWarpgroup;
  constexpr int kEights = kDepth / 8, kLoads = 4;
  const Range<kBits> range(args);
  const int k = args.product.w.k;
  const int thread = static_cast<int>(threadIdx.x) - kWarpgroup;
  const int items = range.blocks * kTokens * kEights;  // Of whole warps.
  for (int i = thread; i < items; i += kThreads * kLoads) {
    float v[kLoads][8] = {};
#pragma unroll
    for (int j = 0; j < kLoads; ++j) {
      const int item = i + j * kThreads, row = item / kEights % kTokens;
      const int block = item / (kEights * kTokens);
      if (item >= items || row >= tile.num_rows) continue;
      LoadEight<false>(
          args.product.x + (tile.row + row) * k,
          (range.first_block + block) * kDepth + item % kEights * 8, k, v[j]);
    }
#pragma unroll
    for (int j = 0; j < kLoads; ++j) {
      const int item = i + j * kThreads, row = item / kEights % kTokens;
      const int block = item / (kEights * kTokens);
      if (item >= items) break;
      const uint4 eight = RoundedEight(v[j]);
      uint32_t word[4] = {eight.x, eight.y, eight.z, eight.w};
      Transpose4(word);
      char* const to = reinterpret_cast<char*>(shared.x[block]) +
                       row * kDepth * 2 + (item % kEights ^ row % 8) * 16;
      *reinterpret_cast<uint4*>(to) = {word[0], word[1], word[2], word[3]};
    }
  }
  FenceSharedStores();
  SyncThreads(kAllSums, kThreads);
  if (thread < range.blocks) Arrive(&shared.x_full[thread]);
}

#endif  // STRATA_SM90A

}  // namespace strata::gpu

#endif  // CUDA_KERNELS_SM90_QUANT_LOAD_CUH_
