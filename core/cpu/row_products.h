// Dense products whose rows do not know each other: row i of the result is the
// same bit for bit whatever other rows there are, and however many.
//
//   by_dots:  c [m, n] = a [m, k] b [n, k]^T     each element a dot product
//   by_sums:  c [m, n] (+)= a [m, k] b [k, n]    each row a sum of rows of b
//
// An element is one chain of fused multiply-adds in the order of k: in by_dots
// a chain for each lane of a vector, whose ends are added in a fixed order; in
// by_sums one chain. Tiles of rows and columns only share loads. So no
// remainder of a tile rounds otherwise, which is what Gemm cannot promise.
//
// Of by_dots, b may be BF16 beside floats: it is widened in registers, which is
// exact, so the result is that of the widened b bit for bit, and weights are
// read at two bytes each.
//
// Row-major; ld* are the distances between rows. One call runs on the calling
// thread. Vectors differ in width between machines, so by_dots may differ in
// rounding there.

#ifndef CORE_CPU_ROW_PRODUCTS_H_
#define CORE_CPU_ROW_PRODUCTS_H_

#include <cstdint>

#include "core/tensor/bfloat16.h"

namespace strata {

template <typename T, typename W = T>
struct RowProductArgs {
  int64_t m = 0, n = 0, k = 0;
  const T* a = nullptr;
  int64_t lda = 0;
  // by_dots: [m], row i of a is the one of this index; null: row i itself.
  const int32_t* a_row = nullptr;
  const W* b = nullptr;
  int64_t ldb = 0;
  // by_dots: what the caller multiplies by next, as far apart as b's rows;
  // null: not known. The last tiles ask memory for it.
  const W* then = nullptr;
  T* c = nullptr;
  int64_t ldc = 0;
  bool add = false;  // by_sums: chains go on from c instead of from 0.
};

template <typename T>
struct RowProducts {
  // The table for this processor, T float or double.
  static const RowProducts& Get();

  void (*by_dots)(const RowProductArgs<T>& args);
  void (*by_sums)(const RowProductArgs<T>& args);
};

struct NarrowRowProducts {
  // The table for this processor.
  static const NarrowRowProducts& Get();

  void (*by_dots)(const RowProductArgs<float, BFloat16>& args);
};

}  // namespace strata

#endif  // CORE_CPU_ROW_PRODUCTS_H_
