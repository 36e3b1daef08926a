// 16 rows of a weight times up to eight rows of BF16, by a warp. The weight is
// the left operand of mma.m16n8k16, the rows are the right one. What is summed
// over may come in any order, as long as both sides agree.
//
//   a unit         64 bytes of a row: 32 columns of BF16, 64 of INT8, 128 of
//                  INT4; what a lane loads at a time is its part of a unit of
//                  two rows, with their scales
//   a step         32 columns
//   lane 4 g + c   weight rows g and g + 8, row g of the others, of each step's
//                  columns those from 8 c on
//   results        weight rows g (d[0], d[1]) and g + 8 (d[2], d[3]) of the
//                  others' rows 2 c and 2 c + 1
//
// A Format says how: Bf16Tile here, PackedTile in packed_tile.cuh.

#ifndef CUDA_OPS_DECODE_FEW_ROWS_TILE_CUH_
#define CUDA_OPS_DECODE_FEW_ROWS_TILE_CUH_

#include <cstdint>

#include "cuda/kernels/quant_product.h"
#include "cuda/ops/device.cuh"
#include "cuda_bf16.h"

namespace strata::gpu {

constexpr int kTileRows = 16;   // Of a weight.
constexpr int kTileTokens = 8;  // Rows of the others.
constexpr int kStepColumns = 32;
constexpr int kUnitBytes = 64;

// Of a lane, its two rows of a tile.
struct RowsOfTile {
  const uint8_t* upper;
  const uint8_t* lower;
  int code_bytes;  // Behind which a row's scales lie.

  // Row `row` of the weight, and the one `below` rows below.
  __device__ __forceinline__ RowsOfTile(const PackedRows& w, int64_t row,
                                        int64_t below)
      : upper(w.data + row * w.row_bytes),
        lower(upper + below * w.row_bytes),
        code_bytes(w.code_bytes) {}
  // The same of rows that lie elsewhere, each `pitch` bytes from the last.
  __device__ __forceinline__ RowsOfTile(const char* rows, int pitch,
                                        int code_bytes, int row, int below)
      : upper(reinterpret_cast<const uint8_t*>(rows) + row * pitch),
        lower(upper + below * pitch),
        code_bytes(code_bytes) {}
};

__device__ __forceinline__ void MultiplyAdd(float (&d)[4], uint32_t a0,
                                            uint32_t a1, uint32_t a2,
                                            uint32_t a3, uint32_t b0,
                                            uint32_t b1) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, "
      "{%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "r"(b0), "r"(b1));
}

struct Bf16Tile {
  static constexpr int kColumns = 32;

  struct Unit {
    uint4 upper, lower;
  };
  static __device__ __forceinline__ void Load(const RowsOfTile& w, int unit,
                                              Unit& to) {
    const int at = unit * kUnitBytes + Lane() % 4 * 16;
    to.upper = __ldcs(reinterpret_cast<const uint4*>(w.upper + at));
    to.lower = __ldcs(reinterpret_cast<const uint4*>(w.lower + at));
  }
  // d += of a unit; b are the lane's 16 bytes of the others' rows, of its
  // steps.
  static __device__ __forceinline__ void Multiply(
      const Unit& u, const uint4 (&b)[kColumns / kStepColumns], float (&d)[4]) {
    MultiplyAdd(d, u.upper.x, u.lower.x, u.upper.y, u.lower.y, b[0].x, b[0].y);
    MultiplyAdd(d, u.upper.z, u.lower.z, u.upper.w, u.lower.w, b[0].z, b[0].w);
  }
};

// Of a row of so many BF16 in shared memory: rows begin at other banks.
__host__ __device__ constexpr int64_t RowBytes(int64_t columns) {
  return columns * 2 + 64;
}

// The others' rows of a lane: `row` of shared memory, or zeros.
struct LaneRows {
  const uint4* at;
  bool there;

  __device__ __forceinline__ LaneRows(const char* rows, int64_t row_bytes,
                                      int row)
      : at(reinterpret_cast<const uint4*>(rows + max(row, 0) * row_bytes) +
           Lane() % 4),
        there(row >= 0) {}
  __device__ __forceinline__ uint4 operator()(int step) const {
    return there ? at[step * (kStepColumns / 8)] : uint4{0, 0, 0, 0};
  }
};

// d += of unit `index` of a row; x(step) is a lane's 16 bytes, as LaneRows'.
template <typename Format, typename X>
__device__ __forceinline__ void MultiplyUnit(const typename Format::Unit& unit,
                                             int index, const X& x,
                                             float (&d)[4]) {
  constexpr int kSteps = Format::kColumns / kStepColumns;
  uint4 b[kSteps];
#pragma unroll
  for (int p = 0; p < kSteps; ++p) b[p] = x(index * kSteps + p);
  Format::Multiply(unit, b, d);
}

// Units [first, first + kUnits) of a row, of which those beyond `end` are not
// there: d += of `unit`. The others' rows come for all of them together;
// x(step) is a lane's 16 bytes.
template <typename Format, int kUnits, typename X>
__device__ __forceinline__ void MultiplyBatch(
    const typename Format::Unit (&unit)[kUnits], int first, int end, X x,
    float (&d)[4]) {
  constexpr int kSteps = Format::kColumns / kStepColumns;
  uint4 b[kUnits][kSteps];
#pragma unroll
  for (int i = 0; i < kUnits; ++i) {
    if (first + i < end) {
#pragma unroll
      for (int p = 0; p < kSteps; ++p) b[i][p] = x((first + i) * kSteps + p);
    }
  }
#pragma unroll
  for (int i = 0; i < kUnits; ++i) {
    if (first + i < end) Format::Multiply(unit[i], b[i], d);
  }
}

// Units [begin, end) of a warp's rows: the first kBatches * kBatch of them are
// loaded by LoadUnits(), the others as these are used, a batch at a time.
template <typename Format, int kBatch>
__device__ __forceinline__ void LoadBatch(const RowsOfTile& w, int first,
                                          int end,
                                          typename Format::Unit (&to)[kBatch]) {
#pragma unroll
  for (int i = 0; i < kBatch; ++i) {
    if (first + i < end) Format::Load(w, first + i, to[i]);
  }
}
template <typename Format, int kBatches, int kBatch>
__device__ __forceinline__ void LoadUnits(
    const RowsOfTile& w, int begin, int end,
    typename Format::Unit (&ahead)[kBatches][kBatch]) {
#pragma unroll
  for (int i = 0; i < kBatches; ++i) {
    LoadBatch<Format>(w, begin + i * kBatch, end, ahead[i]);
  }
}
template <typename Format, int kBatches, int kBatch, typename X>
__device__ __forceinline__ void MultiplyUnits(
    const RowsOfTile& w, int begin, int end,
    typename Format::Unit (&ahead)[kBatches][kBatch], X x, float (&d)[4]) {
  for (int base = begin; base < end; base += kBatches * kBatch) {
#pragma unroll
    for (int i = 0; i < kBatches; ++i) {
      const int first = base + i * kBatch;
      MultiplyBatch<Format>(ahead[i], first, end, x, d);
      LoadBatch<Format>(w, first + kBatches * kBatch, end, ahead[i]);
    }
  }
}

// The same, but that in place of the last of each batch come units of the rows
// `then`, if there is a tile behind this one.
template <typename Format, int kBatches, int kBatch, typename X>
__device__ __forceinline__ void MultiplyUnits(
    const RowsOfTile& w, int begin, int end, const RowsOfTile& then,
    bool is_last, typename Format::Unit (&ahead)[kBatches][kBatch], X x,
    float (&d)[4]) {
  constexpr int kAhead = kBatches * kBatch;
  for (int base = begin; base < end; base += kAhead) {
    const bool ends = base + kAhead >= end;
    const RowsOfTile from = ends ? then : w;
    const int next = ends ? begin : base + kAhead;
    const int last = ends && is_last ? next : end;
#pragma unroll
    for (int i = 0; i < kBatches; ++i) {
      const int at = i * kBatch;
      MultiplyBatch<Format>(ahead[i], base + at, end, x, d);
      LoadBatch<Format>(from, next + at, last, ahead[i]);
    }
  }
}

// A warp's results, where `sums` [warps][16][8] are added up.
__device__ __forceinline__ void StoreTile(const float (&d)[4],
                                          float (*sums)[kTileTokens]) {
  const int g = Lane() / 4, c = Lane() % 4;
  sums[g][2 * c] = d[0];
  sums[g][2 * c + 1] = d[1];
  sums[g + 8][2 * c] = d[2];
  sums[g + 8][2 * c + 1] = d[3];
}

template <int kWarps, int kRows>
__device__ __forceinline__ float SumOfWarps(
    const float (&sums)[kWarps][kRows][kTileTokens], int row, int token) {
  float sum = 0;
#pragma unroll
  for (int w = 0; w < kWarps; ++w) sum += sums[w][row][token];
  return sum;
}

}  // namespace strata::gpu

#endif  // CUDA_OPS_DECODE_FEW_ROWS_TILE_CUH_
