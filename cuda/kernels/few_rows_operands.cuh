// How the operands of a product of few rows by quantised weights come to shared
// memory (few_rows_product.cuh):
//
//   w   a warp's 32 rows, a pair of chunks at a time, by asynchronous copies
//   x   kCopied: rounded by a kernel before, by the copy engine
//       kRounded: rounded here, as the other; for rows that few blocks bring
//       kExact: cut into three BF16 whose sum it is
//
// Rows of x lie one behind the other, of an exact x a vector a thread for both
// steps of a piece.

#ifndef CUDA_KERNELS_FEW_ROWS_OPERANDS_CUH_
#define CUDA_KERNELS_FEW_ROWS_OPERANDS_CUH_

#include <cstdint>

#include "cuda/kernels/few_rows_plan.h"
#include "cuda/kernels/packed_chunk.cuh"
#include "cuda/kernels/quant_product.h"
#include "cuda/kernels/row_tiles.cuh"
#include "cuda_bf16.h"

namespace strata::gpu {

enum class OfX { kCopied, kRounded, kExact };

constexpr int kThreads = 256;
constexpr int kWarps = kThreads / 32;
static_assert(kWarps == kWarpsOfPlan);
constexpr int kRows = 8;  // Of x, in a product of the tensor cores.
// A warp's w on its way: twice so many bytes of each row, and the 16 bytes that
// their scales lie in.
constexpr int kPairBytes = 2 * kChunkBytes;
constexpr int kSlots = 2;
constexpr int kScaleBytes = 16;
constexpr int kExactPieces = 3;

// Rows of products of 8 rows of x: 1 or 2.
template <int kProducts>
constexpr int kTileRows = kProducts* kRows;
// Of 32 bytes of four rows, threads of a half warp meet in no bank: bytes 32 i
// of row r lie at 32 (i ^ r % 4).
struct OnItsWay {
  uint8_t code[kSlots][kWarpRows][kPairBytes];
  uint8_t scale[kSlots][kWarpRows][kScaleBytes];
};

// The same of all warps of a block, codes by the copy engine; aligned to
// kSwizzleBytes.
template <int kWarpsOfBlock>
struct StreamRing {
  uint8_t code[kWarpsOfBlock][kSlots][kWarpRows * kPairBytes];
  uint8_t scale[kWarpsOfBlock][kSlots][kWarpRows * kScaleBytes];
};
// Which row of eight a lane has there: so that threads of half a warp, which
// read eight bytes each of rows swizzled by pieces of 16, meet in no bank.
__device__ __forceinline__ int RowOfLane(int lane) {
  return lane / 4 % 4 * 2 + lane / 16;
}

template <int kBits>
constexpr int kPairBytesOfRow = 2 * kChunkColumns<kBits> * 2;
// Of x in shared memory: vectors of a chunk, of a row or of the tile.
template <int kBits, int kProducts, OfX kX>
constexpr int kVectorsOfX =
    kX == OfX::kExact ? kChunkPieces<kBits>* kExactPieces* kProducts * 32
                      : kChunkColumns<kBits> / 8;

__device__ __forceinline__ void CopyAsync(const uint8_t* from, uint8_t* to) {
  asm volatile("cp.async.cg.shared.global.L2::256B [%0], [%1], 16;" ::"r"(
                   static_cast<uint32_t>(__cvta_generic_to_shared(to))),
               "l"(from)
               : "memory");
}
__device__ __forceinline__ void CommitCopies() {
  asm volatile("cp.async.commit_group;" ::: "memory");
}
// Arrives at a barrier, which counts on it, when the thread's copies so far are
// there.
__device__ __forceinline__ void ArriveWhenCopied(uint64_t* barrier) {
  asm volatile("cp.async.mbarrier.arrive.noinc.shared::cta.b64 [%0];" ::"r"(
                   static_cast<uint32_t>(__cvta_generic_to_shared(barrier)))
               : "memory");
}
template <int kPending>
__device__ __forceinline__ void WaitForCopies() {
  asm volatile("cp.async.wait_group %0;" ::"n"(kPending) : "memory");
}

// A pair of chunks of a warp's rows, from `row` on, of which the last is
// `last`, to slot `slot`.
template <int kBits, int kGroupShift>
__device__ __forceinline__ void CopyPair(const PackedRows& w,
                                         const uint8_t* row, int last, int pair,
                                         int slot, OnItsWay& to) {
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const auto row_bytes = static_cast<int>(w.row_bytes);
  const uint8_t* const at = row + pair * kPairBytes + lane % 8 * 16;
  const int place = (lane % 8 ^ lane / 8 * 2) * 16;
#pragma unroll
  for (int i = 0; i < kWarpRows / 4; ++i) {
    const int r = 4 * i + lane / 8;
    CopyAsync(at + min(r, last) * row_bytes, &to.code[slot][r][place]);
  }
  const int scale = 2 * (pair * 2 * kChunkColumns<kBits> >> kGroupShift);
  CopyAsync(row + w.code_bytes + scale / kScaleBytes * kScaleBytes +
                min(lane, last) * row_bytes,
            to.scale[slot][lane]);
}
// What of x is left when `piece` is taken away, which rounds it.
__device__ __forceinline__ uint32_t TakePiece(float& x, float& y) {
  const __nv_bfloat162 pair = __floats2bfloat162_rn(x, y);
  x -= __low2float(pair);
  y -= __high2float(pair);
  return PairOf(pair);
}

// Eight columns of a row, from memory to the order of a thread's slots: rounded
// or, of rows in BF16 that are whole, as they are.
template <bool kWhole, bool kBf16>
struct EightToRound {
  float v[8] = {};
  __device__ __forceinline__ void Load(const QuantProductArgs& args,
                                       int64_t row, int64_t column) {
    if (kBf16) return LoadEight(args, row, column, v);
    LoadEight<kWhole>(args.x + row * args.w.k, column, args.w.k, v);
  }
  __device__ __forceinline__ uint4 Get() const { return RoundedEight(v); }
};
template <>
struct EightToRound<true, true> {
  uint4 v;
  __device__ __forceinline__ void Load(const QuantProductArgs& args,
                                       int64_t row, int64_t column) {
    v = *reinterpret_cast<const uint4*>(args.x_bf16 + row * args.w.k + column);
  }
  __device__ __forceinline__ uint4 Get() const { return OrderedEight(v); }
};

// Columns [first, first + n) of a tile's rows to shared memory, rounded, each
// row `pitch` bytes from the one before; several loads at a time.
template <bool kWhole, bool kBf16>
__device__ __forceinline__ void RoundRows(const QuantProductArgs& args,
                                          const RowTile& tile, int first, int n,
                                          int pitch, char* to) {
  constexpr int kLoads = kWhole ? 4 : 1;
  const int of_row = n / 8, items = of_row * tile.num_rows;
  for (int i = static_cast<int>(threadIdx.x); i < items;
       i += kLoads * kThreads) {
    EightToRound<kWhole, kBf16> eight[kLoads];
#pragma unroll
    for (int j = 0; j < kLoads; ++j) {
      const int item = i + j * kThreads, row = item / of_row;
      if (item >= items) break;
      eight[j].Load(args, tile.row + row, first + (item - row * of_row) * 8);
    }
#pragma unroll
    for (int j = 0; j < kLoads; ++j) {
      const int item = i + j * kThreads, row = item / of_row;
      if (item >= items) break;
      *reinterpret_cast<uint4*>(to + row * pitch + (item - row * of_row) * 16) =
          eight[j].Get();
    }
  }
}
template <bool kWhole>
__device__ __forceinline__ void RoundX(const QuantProductArgs& args,
                                       const RowTile& tile, int first, int n,
                                       int pitch, char* to) {
  if (args.x_bf16 != nullptr) {
    RoundRows<kWhole, true>(args, tile, first, n, pitch, to);
  } else {
    RoundRows<kWhole, false>(args, tile, first, n, pitch, to);
  }
}

// Where eight columns of a row of x lie, and go: a warp's threads have those of
// a piece of eight rows.
template <int kProducts>
struct EightOfX {
  int piece, of_piece, row;
  int64_t column;

  __device__ EightOfX(int first, int i)
      : piece(i / (kTileRows<kProducts> * 4)),
        of_piece(i % (kTileRows<kProducts> * 4)),
        row(of_piece / 4),
        column(first + piece * kPieceColumns + of_piece % 4 * 8) {}

  __device__ __forceinline__ void Store(float (&v)[8], uint4* to) const {
#pragma unroll
    for (int p = 0; p < kExactPieces; ++p) {
      uint4* const at =
          to + (piece * kExactPieces + p) * kTileRows<kProducts> * 4;
      const uint32_t a = TakePiece(v[0], v[2]), b = TakePiece(v[1], v[3]);
      const uint32_t c = TakePiece(v[4], v[6]), d = TakePiece(v[5], v[7]);
      at[of_piece] = {a, b, c, d};
    }
  }
};

// Columns [first, first + n) of a tile's rows to shared memory, in pieces, and
// zeros for the rows that it lacks; where all columns are there (kWhole) with
// several loads at a time.
template <int kProducts, bool kWhole>
__device__ void CutX(const QuantProductArgs& args, const RowTile& tile,
                     int first, int n, uint4* to) {
  constexpr int kLoads = kWhole ? 4 : 1;
  const int k = args.w.k;
  const int items =
      (n + kPieceColumns - 1) / kPieceColumns * kTileRows<kProducts> * 4;
  const int thread = static_cast<int>(threadIdx.x);
  for (int i = thread; i < items; i += kLoads * kThreads) {
    float v[kLoads][8] = {};
#pragma unroll
    for (int j = 0; j < kLoads; ++j) {
      const EightOfX<kProducts> eight(first, i + j * kThreads);
      if (i + j * kThreads >= items || eight.row >= tile.num_rows) continue;
      LoadEight<kWhole>(args.x + (tile.row + eight.row) * k, eight.column, k,
                        v[j]);
    }
#pragma unroll
    for (int j = 0; j < kLoads; ++j) {
      if (i + j * kThreads >= items) break;
      EightOfX<kProducts>(first, i + j * kThreads).Store(v[j], to);
    }
  }
}

}  // namespace strata::gpu

#endif  // CUDA_KERNELS_FEW_ROWS_OPERANDS_CUH_
