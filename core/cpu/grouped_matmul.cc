#include "core/cpu/grouped_matmul.h"

#include <algorithm>
#include <cstdint>
#include <type_traits>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "core/base/status_macros.h"
#include "core/cpu/bf16_product.h"
#include "core/cpu/gemm.h"
#include "core/cpu/vector_math.h"
#include "core/ops/grouped_matmul.h"
#include "core/runtime/kernel.h"
#include "core/runtime/kernel_registry.h"
#include "core/tensor/bfloat16.h"
#include "core/tensor/tensor.h"

namespace strata {
namespace {

// An expert's product is cut into tiles of the result, each a call of Gemm on
// one thread. Gemm packs both operands anew in each call, so tiles are large;
// but an expert that has most of the rows must not keep one thread busy alone.
constexpr int64_t kTileRows = 256;
constexpr int64_t kTileColumns = 512;

// Up to so many rows, a product by w^T is a dot product an element: w is read
// once and not packed, which would triple the traffic. Such a row is the same
// bit for bit whichever rows share the batch.
constexpr int64_t kMaxDotRows = 8;
// The same for small products, where OpenBLAS may pick other kernels (it does,
// with AVX-512, up to 1200 elements of the result), which round differently.
// So rows of an expert that has more are equal bit for bit, too, on processors
// with AVX-512; elsewhere kernels differ in the last rows of a tile.
constexpr int64_t kMaxDotElements = 1200;
// Columns of such a tile are fewer: each reads a whole row of w.
constexpr int64_t kDotTileColumns = 128;

// Rows and columns of the result that one piece of work makes.
struct Tile {
  int32_t expert = 0;
  int32_t row = 0;  // Of x; of w in a weight gradient.
  int32_t num_rows = 0;
  int32_t column = 0;
  int32_t num_columns = 0;
  bool by_dots = false;
  int64_t work = 0;  // Multiply-adds.
};

// Returns INVALID_ARGUMENT if `offset` does not rise from 0 to `rows`.
absl::Status CheckOffsets(const int32_t* offset, int64_t num_experts,
                          int64_t rows) {
  for (int64_t e = 0; e < num_experts; ++e) {
    if (offset[e] > offset[e + 1]) {
      return absl::InvalidArgumentError(absl::StrCat(
          "expert ", e, " owns rows from ", offset[e], " to ", offset[e + 1]));
    }
  }
  if (offset[0] != 0 || offset[num_experts] != rows) {
    return absl::InvalidArgumentError(
        absl::StrCat("the experts own rows ", offset[0], " to ",
                     offset[num_experts], "; want 0 to ", rows));
  }
  return absl::OkStatus();
}

// Large tiles first, so that threads finish together; ties as they come.
void SortByWork(Tile* tiles, int64_t count) {
  std::sort(tiles, tiles + count, [](const Tile& a, const Tile& b) {
    if (a.work != b.work) return a.work > b.work;
    if (a.expert != b.expert) return a.expert < b.expert;
    if (a.row != b.row) return a.row < b.row;
    return a.column < b.column;
  });
}

int64_t CeilDiv(int64_t a, int64_t b) { return (a + b - 1) / b; }

// The width of equal pieces of `n`, each at most `max`: a remainder of a few
// rows would be slow, and small enough for the other kernels.
int64_t EvenPiece(int64_t n, int64_t max) {
  return CeilDiv(n, std::max<int64_t>(1, CeilDiv(n, max)));
}

// A tile of y by dots, for weights as wide as the rows or in BF16.
template <typename T, typename W>
void DotTile(const T* x, const W* w, const Tile& tile, int64_t k, int64_t ldy,
             T* y) {
  if constexpr (std::is_same_v<W, BFloat16>) {
    Bf16Product::Get().dots(x, tile.num_rows, w, tile.num_columns, k, y, ldy);
  } else {
    const VectorMath<T>& vec = VectorMath<T>::Get();
    for (int64_t column = 0; column < tile.num_columns; ++column) {
      for (int64_t row = 0; row < tile.num_rows; ++row) {
        y[row * ldy + column] = vec.dot(x + row * k, w + column * k, k);
      }
    }
  }
}

// y rows = x rows * w[e]^T, or * w[e]. W is T, or BF16 beside float; then with
// w[e]^T only.
template <typename T, typename W>
absl::Status RunGroupedMatMul(const KernelContext& ctx) {
  constexpr bool kNarrow = !std::is_same_v<T, W>;
  constexpr int64_t kMaxRows = kNarrow ? kMaxBf16DotRows : kMaxDotRows;
  const TensorView& x = ctx.in(0);
  const TensorView& w = ctx.in(1);
  const bool transpose = ctx.attrs().Int("transpose_w") != 0;
  const int64_t rows = x.dim(0);
  const int64_t experts = w.dim(0);
  const int64_t k = x.dim(1);
  const int64_t n = w.dim(transpose ? 1 : 2);
  const int32_t* const offset = ctx.in(2).as<int32_t>();
  RETURN_IF_ERROR(CheckOffsets(offset, experts, rows));

  static_assert(kDotTileColumns <= kTileColumns);
  const int64_t max_tiles = (std::min(experts, rows) + rows / kTileRows) *
                            CeilDiv(n, kDotTileColumns);
  auto* const tiles = ctx.scratch.Take<Tile>(max_tiles);
  int64_t num_tiles = 0;
  bool any_gemm = false;
  for (int64_t e = 0; e < experts; ++e) {
    const int64_t m = offset[e + 1] - offset[e];
    const bool by_dots =
        transpose && (m <= kMaxRows || m * n <= kMaxDotElements);
    any_gemm |= !by_dots;
    const int64_t tile_rows = EvenPiece(m, kTileRows);
    const int64_t tile_columns =
        EvenPiece(n, by_dots ? kDotTileColumns : kTileColumns);
    for (int64_t row = 0; row < m; row += tile_rows) {
      for (int64_t column = 0; column < n; column += tile_columns) {
        Tile& tile = tiles[num_tiles++];
        tile.expert = e;
        tile.row = offset[e] + row;
        tile.num_rows = std::min(tile_rows, m - row);
        tile.column = column;
        tile.num_columns = std::min(tile_columns, n - column);
        tile.by_dots = by_dots;
        tile.work = int64_t{tile.num_rows} * tile.num_columns * k;
      }
    }
  }
  SortByWork(tiles, num_tiles);

  const T* const x_data = x.as<T>();
  const W* const w_data = w.as<W>();
  T* const y_data = ctx.out(0).as<T>();
  const int64_t wide_size = std::min(n, kTileColumns) * k;
  float* const wide =  // [threads, columns, k]: tiles of w, widened for Gemm.
      kNarrow && any_gemm
          ? ctx.scratch.Take<float>(ctx.pool.num_threads() * wide_size)
          : nullptr;
  ctx.pool.ParallelFor(num_tiles, [&](int64_t i, int worker) {
    const Tile& tile = tiles[i];
    const T* const x_tile = x_data + tile.row * k;
    const W* const w_tile = w_data + tile.expert * n * k +
                            (transpose ? tile.column * k : tile.column);
    T* const y_tile = y_data + tile.row * n + tile.column;
    if (tile.by_dots) {
      DotTile(x_tile, w_tile, tile, k, n, y_tile);
      return;
    }
    GemmArgs<T> g;
    g.transpose_b = transpose;
    g.m = tile.num_rows;
    g.n = tile.num_columns;
    g.k = k;
    g.a = x_tile;
    g.lda = k;
    if constexpr (kNarrow) {
      Bf16Product::Get().widen(w_tile, int64_t{tile.num_columns} * k,
                               wide + worker * wide_size);
      g.b = wide + worker * wide_size;
    } else {
      g.b = w_tile;
    }
    g.ldb = transpose ? k : n;
    g.c = y_tile;
    g.ldc = n;
    Gemm(g);
  });
  return absl::OkStatus();
}

// dw[e] [n, k] = dy rows^T * x rows: every element of it has one writer, and
// rows are summed in one call, in their order.
template <typename T>
absl::Status RunGroupedWeightGrad(const KernelContext& ctx) {
  const TensorView& dy = ctx.in(0);
  const TensorView& x = ctx.in(1);
  const TensorView& dw = ctx.out(0);
  const int64_t experts = dw.dim(0);
  const int64_t n = dw.dim(1);
  const int64_t k = dw.dim(2);
  const int32_t* const offset = ctx.in(2).as<int32_t>();
  RETURN_IF_ERROR(CheckOffsets(offset, experts, x.dim(0)));

  auto* const tiles = ctx.scratch.Take<Tile>(experts * CeilDiv(n, kTileRows) *
                                             CeilDiv(k, kTileColumns));
  const int64_t tile_rows = EvenPiece(n, kTileRows);
  const int64_t tile_columns = EvenPiece(k, kTileColumns);
  int64_t num_tiles = 0;
  for (int64_t e = 0; e < experts; ++e) {
    for (int64_t row = 0; row < n; row += tile_rows) {
      for (int64_t column = 0; column < k; column += tile_columns) {
        Tile& tile = tiles[num_tiles++];
        tile.expert = e;
        tile.row = row;
        tile.num_rows = std::min(tile_rows, n - row);
        tile.column = column;
        tile.num_columns = std::min(tile_columns, k - column);
        tile.work = int64_t{offset[e + 1] - offset[e]} * tile.num_rows *
                    tile.num_columns;
      }
    }
  }
  SortByWork(tiles, num_tiles);

  const T* const dy_data = dy.as<T>();
  const T* const x_data = x.as<T>();
  T* const dw_data = dw.as<T>();
  ctx.pool.ParallelFor(num_tiles, [&](int64_t i) {
    const Tile& tile = tiles[i];
    const int64_t first = offset[tile.expert];
    GemmArgs<T> g;
    g.transpose_a = true;
    g.m = tile.num_rows;
    g.n = tile.num_columns;
    g.k = offset[tile.expert + 1] - first;
    g.a = dy_data + first * n + tile.row;
    g.lda = n;
    g.b = x_data + first * k + tile.column;
    g.ldb = k;
    g.c = dw_data + (tile.expert * n + tile.row) * k + tile.column;
    g.ldc = k;
    Gemm(g);  // Zeros where the expert has no rows.
  });
  return absl::OkStatus();
}

}  // namespace

void RegisterGroupedMatMulKernels(KernelRegistry& kernels) {
  kernels.Register(kGroupedMatMul, DType::kF32, [](const KernelContext& ctx) {
    return ctx.in(1).dtype == DType::kBF16
               ? RunGroupedMatMul<float, BFloat16>(ctx)
               : RunGroupedMatMul<float, float>(ctx);
  });
  kernels.Register(kGroupedMatMul, DType::kF64,
                   RunGroupedMatMul<double, double>);
  kernels.Register(kGroupedWeightGrad, DType::kF32,
                   RunGroupedWeightGrad<float>);
  kernels.Register(kGroupedWeightGrad, DType::kF64,
                   RunGroupedWeightGrad<double>);
}

}  // namespace strata
