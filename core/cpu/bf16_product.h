// Products of float rows with BF16 rows, for the few rows of decoding.
//
//   x [m, k] float, w [n, k] BF16  ->  y[i, j] = sum of x[i, p] * w[j, p]
//
// Weights are widened in registers, which is exact, so all arithmetic is in
// float and w is read once from memory at two bytes a weight. Highway picks the
// widest vectors once. AVX-512's own BF16 products are not used: they would
// round x to BF16, and what bounds decoding is memory.

#ifndef CORE_CPU_BF16_PRODUCT_H_
#define CORE_CPU_BF16_PRODUCT_H_

#include <cstdint>

#include "core/tensor/bfloat16.h"

namespace strata {

struct Bf16Product {
  // The table for this processor.
  static const Bf16Product& Get();

  // y[i * ldy + j] for m rows of x and n of w. An element is the same bit for
  // bit whatever m and n are: it depends on its two rows and on k alone. For m
  // up to 16 or so; beyond, w is worth widening into memory.
  void (*dots)(const float* x, int64_t m, const BFloat16* w, int64_t n,
               int64_t k, float* y, int64_t ldy);

  // out = x
  void (*widen)(const BFloat16* x, int64_t n, float* out);
};

// Up to so many rows, products go by `dots`.
inline constexpr int64_t kMaxBf16DotRows = 16;

}  // namespace strata

#endif  // CORE_CPU_BF16_PRODUCT_H_
