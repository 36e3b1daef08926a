// What fused kernels are made of: products of a tile of rows by part of a
// weight, and the norm of a tile. Products are those of row_products.h, so that
// a token's values do not depend on the tile it comes in, and are bit for bit
// those of the kernels of batch_invariant.h.

#ifndef CORE_CPU_FUSED_FUSED_TILES_H_
#define CORE_CPU_FUSED_FUSED_TILES_H_

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <type_traits>

#include "core/base/thread_pool.h"
#include "core/cpu/row_chunks.h"
#include "core/cpu/row_products.h"
#include "core/cpu/vector_math.h"
#include "core/tensor/bfloat16.h"
#include "core/tensor/dtype.h"
#include "core/tensor/tensor.h"

namespace strata {

// Rows of a tile that one piece of work multiplies.
inline constexpr int64_t kTileRows = 64;
// Where a head of a projection is a piece, rows of a piece: there are few
// heads.
inline constexpr int64_t kHeadRows = 16;

inline int64_t CeilDiv(int64_t a, int64_t b) { return (a + b - 1) / b; }

// Products so small that handing them out costs more than doing them here, in
// multiplications.
inline constexpr int64_t kFewProducts = 65536;

// Calls fn(piece, worker) for each of the pieces, which together are `products`
// multiplications.
template <typename Fn>
void ForPieces(ThreadPool& pool, int64_t pieces, int64_t products, Fn fn) {
  if (products > kFewProducts) {
    pool.ParallelFor(pieces, fn);
    return;
  }
  pool.ParallelFor(1, [&](int64_t, int worker) {
    for (int64_t piece = 0; piece < pieces; ++piece) fn(piece, worker);
  });
}

// Columns of a piece of a product over k by a weight of `n` rows: 64 KB of
// floats, so that they stay in a core's second cache while rows pass, and that
// there are enough pieces for many cores.
inline int64_t PieceColumns(int64_t n, int64_t k) {
  return std::clamp<int64_t>(16384 / std::max<int64_t>(1, k) / 16 * 16, 16,
                             std::max<int64_t>(16, n));
}

// A tile of rows to be multiplied by weights: a [m, k].
template <typename T>
struct TileRowsOf {
  const T* a = nullptr;
  int64_t m = 0, k = 0, lda = 0;
  const int32_t* a_row = nullptr;  // As RowProductArgs'.

  // c [m, n] = a w^T, w being the `n` rows of `weight` from `first` on (of a
  // stack of matrices, counted through). BF16 beside floats is read in place.
  // `then`: the first row of the same weight that is read next, if it is known.
  void Times(const TensorView& weight, int64_t first, int64_t n, T* c,
             int64_t ldc, int64_t then = -1) const {
    if constexpr (std::is_same_v<T, float>) {
      if (weight.dtype == DType::kBF16) {
        NarrowRowProducts::Get().by_dots(
            Args<BFloat16>(weight, first, n, c, ldc, then));
        return;
      }
    }
    RowProducts<T>::Get().by_dots(Args<T>(weight, first, n, c, ldc, then));
  }

 private:
  template <typename W>
  RowProductArgs<T, W> Args(const TensorView& weight, int64_t first, int64_t n,
                            T* c, int64_t ldc, int64_t then) const {
    RowProductArgs<T, W> g;
    g.m = m;
    g.n = n;
    g.k = k;
    g.a = a;
    g.lda = lda;
    g.a_row = a_row;
    g.b = weight.as<W>() + first * k;
    g.ldb = k;
    if (then >= 0) g.then = weight.as<W>() + then * k;
    g.c = c;
    g.ldc = ldc;
    return g;
  }
};

// RmsNorm (core/cpu/norm.cc) of a row.
template <typename T>
void NormRow(const T* x, const T* gain, T eps, int64_t d, T* y) {
  const VectorMath<T>& vec = VectorMath<T>::Get();
  const T mean_square = vec.sum_of_squares(x, d) / d;
  vec.product(1 / std::sqrt(mean_square + eps), x, gain, d, y);
}

template <typename T>
void NormRows(ThreadPool& pool, const T* x, const T* gain, T eps, int64_t rows,
              int64_t d, T* y) {
  ForRowChunks(pool, rows, d, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      NormRow(x + i * d, gain, eps, d, y + i * d);
    }
  });
}

// h + (x w^T + bias) for a tile: pieces of columns, each of which is added to
// as soon as it is made. `y` may be `h`.
//   h, y [m, n], w [n, k], bias [n] or null; tiles [workers, m, PieceColumns]
template <typename T>
void AddProduct(ThreadPool& pool, const TileRowsOf<T>& x, const TensorView& w,
                const T* bias, const T* h, T* y, T* tiles) {
  const VectorMath<T>& vec = VectorMath<T>::Get();
  const int64_t n = w.dim(0), columns = PieceColumns(n, x.k);
  const auto add_piece = [&](int64_t piece, int worker) {
    const int64_t first = piece * columns;
    const int64_t count = std::min(columns, n - first);
    T* const tile = tiles + worker * x.m * columns;
    x.Times(w, first, count, tile, count);
    for (int64_t i = 0; i < x.m; ++i) {
      T* const row = tile + i * count;
      if (bias != nullptr) vec.add(row, bias + first, count, row);
      vec.add(h + i * n + first, row, count, y + i * n + first);
    }
  };
  ForPieces(pool, CeilDiv(n, columns), x.m * n * x.k, add_piece);
}

}  // namespace strata

#endif  // CORE_CPU_FUSED_FUSED_TILES_H_
