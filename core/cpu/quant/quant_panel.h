// Products of many float rows with quantised ones (core/quant/packed_rows.h).
//
//   w  32 packed rows of k   --some columns of some rows a vector-->
//        panel, in a core's own caches: bytes (vnni_panel-inl.h), or codes less
//        their zeros in bytes or 16 bits (avx2_panel-inl.h)
//   x [m, k] in integers (core/cpu/quant/quant_product.h), six rows at a time
//        |
//        v
//   y [i, j] = sum over blocks of 32 columns of
//                x scale * w scale * (integer sum)
//
// A lane is a row of w, so that a block of 32 columns costs one scaling for a
// whole vector of them, and what is read of x serves 16 or 32. Making the panel
// pays from some rows on. An element is the same bit for bit whatever m and n
// are. With AVX2 it is what QuantProduct::dots gives, too, with VNNI not, as
// floats are added in another order.

#ifndef CORE_CPU_QUANT_QUANT_PANEL_H_
#define CORE_CPU_QUANT_QUANT_PANEL_H_

#include <cstdint>

#include "core/cpu/quant/quant_product.h"
#include "core/quant/format.h"

namespace strata {

// Rows of w in a panel.
inline constexpr int64_t kPanelRows = 32;

struct QuantPanel {
  // The table for this processor.
  static const QuantPanel& Get();

  // y[i * ldy + j] for rows [first, first + m) of x and n packed rows of k
  // columns, n at most kPanelRows. `memory`: PanelBytes(k), aligned to 64.
  // Null where there is no AVX2.
  void (*multiply)(const QuantizedRows& x, int64_t first, int64_t m,
                   const uint8_t* w, const QuantFormat& format, int64_t k,
                   int64_t n, char* memory, float* y, int64_t ldy);

  // Whether an element is QuantProduct::dots' bit for bit.
  bool as_dots;
  // Up to so many rows of x, going row by row is quicker: by codes of up to 4
  // bits, and of 8.
  int64_t few_rows;
  int64_t few_rows_of_8_bits;
};

int64_t PanelBytes(int64_t k);

}  // namespace strata

#endif  // CORE_CPU_QUANT_QUANT_PANEL_H_
