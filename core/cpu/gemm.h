// One dense product on the calling thread, float or double, by serial OpenBLAS.
//
//   c [m, n] = alpha * op(a) [m, k] * op(b) [k, n] + beta * c
//
// Row-major; `lda`, `ldb`, `ldc` are the distances between rows as stored.
// With beta = 0, c is only written. Safe to call from several threads.
// Allocates nothing once buffers are reserved, but for small products of odd
// sizes with AVX-512, where OpenBLAS takes a few KB from the heap.

#ifndef CORE_CPU_GEMM_H_
#define CORE_CPU_GEMM_H_

#include <algorithm>
#include <cstdint>

#include "cblas.h"

namespace strata {

template <typename T>
struct GemmArgs {
  bool transpose_a = false;  // a is stored [k, m].
  bool transpose_b = false;  // b is stored [n, k].
  int64_t m = 0, n = 0, k = 0;
  T alpha = 1;
  const T* a = nullptr;
  int64_t lda = 0;
  const T* b = nullptr;
  int64_t ldb = 0;
  T beta = 0;
  T* c = nullptr;
  int64_t ldc = 0;
};

template <typename T>
void Gemm(const GemmArgs<T>& g) {
  if (g.m == 0 || g.n == 0) return;
  if (g.k == 0 && g.beta == 0) {
    for (int64_t i = 0; i < g.m; ++i) {
      std::fill_n(g.c + i * g.ldc, g.n, T{0});
    }
    return;
  }
  if (g.k == 0) return;
  const CBLAS_TRANSPOSE a = g.transpose_a ? CblasTrans : CblasNoTrans;
  const CBLAS_TRANSPOSE b = g.transpose_b ? CblasTrans : CblasNoTrans;
  if constexpr (sizeof(T) == sizeof(float)) {
    cblas_sgemm(CblasRowMajor, a, b, g.m, g.n, g.k, g.alpha, g.a, g.lda, g.b,
                g.ldb, g.beta, g.c, g.ldc);
  } else {
    cblas_dgemm(CblasRowMajor, a, b, g.m, g.n, g.k, g.alpha, g.a, g.lda, g.b,
                g.ldb, g.beta, g.c, g.ldc);
  }
}

// Makes OpenBLAS map work buffers for `num_threads` products at once, which it
// would else do when that many first meet, at any later time. Buffers take no
// memory before they are used.
void ReserveGemmBuffers(int num_threads);

}  // namespace strata

#endif  // CORE_CPU_GEMM_H_
