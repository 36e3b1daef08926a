// Products of float rows with quantised ones (core/quant/packed_rows.h).
//
//   x [m, k] float   --Quantize-->  codes of 8 or 16 bits, a scale a 32 columns
//                                     |
//   w [n] packed rows of k  ----------+-- sums of integer products, each block
//                                     |   of 32 exact, scaled and added in
//                                     float
//                                     v
//   y [i, j] = sum over blocks of  x scale * w scale * (integer sum)
//
// A row of x has 8 bits where its range allows that: where the error that
// rounding makes, as far as the blocks' ranges tell, is at most 1 % of the
// row's root mean square. Elsewhere (an outlier in each block) it has 16, which
// costs a second pass over registers and none over memory. Counts() says how
// many rows had which.
//
// Highway picks the instructions once: VNNI's sums of four products where the
// processor has them with AVX-512 (vnni_dots-inl.h), else AVX2's of two
// (avx2_dots-inl.h), else products of 16 bits.

#ifndef CORE_CPU_QUANT_QUANT_PRODUCT_H_
#define CORE_CPU_QUANT_QUANT_PRODUCT_H_

#include <cstdint>

#include "core/quant/format.h"

namespace strata {

// Columns of x that share a scale.
inline constexpr int64_t kActivationBlock = 32;

// Rows of x in integers; the memory is whoever called Quantize's.
struct QuantizedRows {
  int64_t padded = 0;      // Columns, in multiples of 64.
  int8_t* high = nullptr;  // [m, padded]  x = scale * high, or of 16
  int8_t* low = nullptr;   // [m, padded]  bits scale * (256 high + low)
  // The same, of each 128 columns the blocks in the order 0, 2, 1, 3: that in
  // which 64 bytes of 4-bit codes hold them, low halves before high ones. Only
  // where VNNI with AVX-512 reads them.
  int8_t* high_by_halves = nullptr;  // [m, padded]
  int8_t* low_by_halves = nullptr;   // [m, padded]
  float* scale = nullptr;            // [m, padded / 32]
  int32_t* minus_sum = nullptr;      // [m, padded / 32]  Of a block's codes.
  uint8_t* wide = nullptr;           // [m]  Whether it has 16 bits.

  // Bytes of those arrays and of what may be read behind them, and where they
  // lie in `memory`, aligned to 64.
  static int64_t NumBytes(int64_t m, int64_t columns);
  static QuantizedRows At(char* memory, int64_t m, int64_t columns);
};

struct QuantProduct {
  // The table for this processor.
  static const QuantProduct& Get();

  // Rows [begin, end) of x [m, k].
  void (*quantize)(const float* x, int64_t k, int64_t begin, int64_t end,
                   const QuantizedRows& out);

  // y[i * ldy + j] for rows [first, first + m) of x and n packed rows of k
  // columns. An element is the same bit for bit whatever m and n are.
  void (*dots)(const QuantizedRows& x, int64_t first, int64_t m,
               const uint8_t* w, const QuantFormat& format, int64_t k,
               int64_t n, float* y, int64_t ldy);

  // n packed rows in numbers, to out [n, k]: exact.
  void (*widen)(const uint8_t* w, const QuantFormat& format, int64_t k,
                int64_t n, float* out);
};

// Rows of activations that the process has quantised so far.
struct ActivationWidths {
  int64_t rows_of_8_bits = 0;
  int64_t rows_of_16_bits = 0;
};
ActivationWidths CountActivationWidths();

}  // namespace strata

#endif  // CORE_CPU_QUANT_QUANT_PRODUCT_H_
