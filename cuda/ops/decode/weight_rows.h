// The weights of a product of a few tokens, in any format that the kernels here
// read: BF16, INT4 or INT8, told by PackedRows' bits (16: BF16, no scales).

#ifndef CUDA_OPS_DECODE_WEIGHT_ROWS_H_
#define CUDA_OPS_DECODE_WEIGHT_ROWS_H_

#include <cstdint>

#include "cuda/kernels/quant_product.h"
#include "cuda_bf16.h"

namespace strata::gpu {

constexpr int kBf16Bits = 16;

// [n, k], or an expert's of [E, n, k].
inline PackedRows Bf16Rows(const __nv_bfloat16* w, int64_t n, int64_t k) {
  PackedRows rows;
  rows.data = reinterpret_cast<const uint8_t*>(w);
  rows.n = n;
  rows.row_bytes = 2 * k;
  rows.bits = kBf16Bits;
  rows.k = static_cast<int>(k);
  rows.code_bytes = static_cast<int>(2 * k);
  return rows;
}

// Columns that a lane takes at a time (few_rows_tile.cuh).
inline int UnitColumns(const PackedRows& w) { return 64 * 8 / w.bits; }

// Whether tiles read it: rows of whole units, aligned to 16 bytes; packed ones
// symmetric, in groups of 32, 64 or 128.
bool HasTiles(const PackedRows& w);

// Whether the same kernel reads both.
inline bool SameFormat(const PackedRows& a, const PackedRows& b) {
  return a.bits == b.bits &&
         (a.bits == kBf16Bits || a.group_shift == b.group_shift);
}

}  // namespace strata::gpu

#endif  // CUDA_OPS_DECODE_WEIGHT_ROWS_H_
