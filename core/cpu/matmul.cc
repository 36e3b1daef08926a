#include "core/cpu/matmul.h"

#include <algorithm>
#include <cstdint>

#include "absl/status/status.h"
#include "core/cpu/bf16_product.h"
#include "core/cpu/gemm.h"
#include "core/cpu/vector_math.h"
#include "core/ops/matmul.h"
#include "core/runtime/kernel.h"
#include "core/runtime/kernel_registry.h"
#include "core/tensor/bfloat16.h"
#include "core/tensor/tensor.h"

namespace strata {
namespace {

// Up to so many rows a product by w^T reads w once from memory and is bound by
// that; packing it, as Gemm does, would triple the traffic.
constexpr int64_t kMaxDotRows = 8;
// Up to so many elements of the result, OpenBLAS may pick other kernels (it
// does, with AVX-512), which round differently. Dots instead, and no smaller
// tiles, keep a row of a product by w^T the same bit for bit in any batch of
// more than kMaxDotRows, and in any of less.
constexpr int64_t kMaxDotElements = 1200;
// Elements of w that one piece of work reads then.
constexpr int64_t kDotPiece = 32768;
constexpr int64_t kNarrowDotPiece = 65536;  // As many bytes.

int64_t CeilDiv(int64_t a, int64_t b) { return (a + b - 1) / b; }

// The width of about equal pieces of `n`, each at most `max` (a multiple of a
// cache line's 16 floats), so that none is a remainder of a few.
int64_t EvenPiece(int64_t n, int64_t max) {
  const int64_t even = CeilDiv(n, CeilDiv(n, max));
  return even == n ? n : CeilDiv(even, 16) * 16;
}

// The tile of the result that one call of Gemm makes. Large tiles pack less,
// and narrow ones lose more than flat ones; but there should be enough of them
// to go round, unless they are worth less than handing them out.
struct Tile {
  int64_t rows = 0;
  int64_t columns = 0;

  int64_t Count(int64_t m, int64_t n) const {
    return CeilDiv(m, rows) * CeilDiv(n, columns);
  }
};

// A function of the shapes alone.
Tile ChooseTile(int64_t m, int64_t n, int64_t k) {
  constexpr Tile kTiles[] = {{256, 512}, {128, 512}, {128, 256},
                             {128, 128}, {64, 128},  {64, 64}};
  constexpr int64_t kSmall = 2'000'000;    // Multiply-adds; about 40 us.
  constexpr int64_t kLarge = 150'000'000;  // About 3 ms.
  Tile chosen;
  for (const Tile& tile : kTiles) {
    const Tile even = {EvenPiece(m, tile.rows), EvenPiece(n, tile.columns)};
    if (chosen.rows > 0 && even.rows * even.columns <= kMaxDotElements) break;
    chosen = even;
    const int64_t work = chosen.rows * chosen.columns * k;
    const int64_t count = chosen.Count(m, n);
    if (work <= kSmall || count >= (work <= kLarge ? 4 : 8)) break;
  }
  return chosen;
}

// c [m, n] = a [m, k] b [n, k]^T for few rows of a.
template <typename T>
void MatMulByDots(ThreadPool& pool, int64_t m, int64_t n, int64_t k, const T* a,
                  const T* b, T* c) {
  const VectorMath<T>& vec = VectorMath<T>::Get();
  const int64_t piece = std::max<int64_t>(1, kDotPiece / k);
  pool.ParallelFor(CeilDiv(n, piece), [&](int64_t index) {
    const int64_t end = std::min(n, (index + 1) * piece);
    for (int64_t j = index * piece; j < end; ++j) {
      for (int64_t i = 0; i < m; ++i) {
        c[i * n + j] = vec.dot(a + i * k, b + j * k, k);
      }
    }
  });
}

// The same for w in BF16.
void MatMulByNarrowDots(ThreadPool& pool, int64_t m, int64_t n, int64_t k,
                        const float* a, const BFloat16* b, float* c) {
  const Bf16Product& bf16 = Bf16Product::Get();
  const int64_t piece =
      std::max<int64_t>(1, kNarrowDotPiece / std::max<int64_t>(1, k));
  pool.ParallelFor(CeilDiv(n, piece), [&](int64_t index) {
    const int64_t begin = index * piece;
    bf16.dots(a, m, b + begin * k, std::min(piece, n - begin), k, c + begin, n);
  });
}

// c [m, n] = a [m, k] b [n, k]^T with b in BF16: few rows by dots, else tiles
// of b are widened and multiplied by Gemm.
absl::Status RunNarrowMatMul(const KernelContext& ctx) {
  const TensorView& a = ctx.in(0);
  const TensorView& b = ctx.in(1);
  const int64_t m = a.dim(0), k = a.dim(1), n = b.dim(0);
  if (m == 0 || n == 0) return absl::OkStatus();
  const float* const a_data = a.as<float>();
  const BFloat16* const b_data = b.as<BFloat16>();
  float* const c_data = ctx.out(0).as<float>();
  if (m <= kMaxBf16DotRows || m * n <= kMaxDotElements || k == 0) {
    MatMulByNarrowDots(ctx.pool, m, n, k, a_data, b_data, c_data);
    return absl::OkStatus();
  }

  const Bf16Product& bf16 = Bf16Product::Get();
  const Tile tile = ChooseTile(m, n, k);
  const int64_t row_tiles = CeilDiv(m, tile.rows);
  float* const wide = ctx.scratch.Take<float>(  // [threads, tile.columns, k]
      ctx.pool.num_threads() * tile.columns * k);
  ctx.pool.ParallelFor(tile.Count(m, n), [&](int64_t index, int worker) {
    const int64_t row = index % row_tiles * tile.rows;
    const int64_t column = index / row_tiles * tile.columns;
    GemmArgs<float> g;
    g.transpose_b = true;
    g.m = std::min(tile.rows, m - row);
    g.n = std::min(tile.columns, n - column);
    g.k = g.lda = g.ldb = k;
    float* const b_tile = wide + worker * tile.columns * k;
    bf16.widen(b_data + column * k, g.n * k, b_tile);
    g.a = a_data + row * k;
    g.b = b_tile;
    g.c = c_data + row * n + column;
    g.ldc = n;
    Gemm(g);
  });
  return absl::OkStatus();
}

template <typename T>
absl::Status RunMatMul(const KernelContext& ctx) {
  const bool transpose_a = ctx.attrs().Int("transpose_lhs") != 0;
  const bool transpose_b = ctx.attrs().Int("transpose_rhs") != 0;
  const TensorView& a = ctx.in(0);
  const TensorView& b = ctx.in(1);
  const int64_t m = a.dim(transpose_a ? 1 : 0);
  const int64_t k = a.dim(transpose_a ? 0 : 1);
  const int64_t n = b.dim(transpose_b ? 0 : 1);
  if (m == 0 || n == 0) return absl::OkStatus();
  const T* const a_data = a.as<T>();
  const T* const b_data = b.as<T>();
  T* const c_data = ctx.out(0).as<T>();

  const bool few = m <= kMaxDotRows || m * n <= kMaxDotElements;
  if (few && !transpose_a && transpose_b && k > 0) {
    MatMulByDots(ctx.pool, m, n, k, a_data, b_data, c_data);
    return absl::OkStatus();
  }

  const Tile tile = ChooseTile(m, n, k);
  const int64_t row_tiles = CeilDiv(m, tile.rows);
  ctx.pool.ParallelFor(tile.Count(m, n), [&](int64_t index) {
    // Neighbours share their part of b, the one that is larger as a rule.
    const int64_t row = index % row_tiles * tile.rows;
    const int64_t column = index / row_tiles * tile.columns;
    GemmArgs<T> g;
    g.transpose_a = transpose_a;
    g.transpose_b = transpose_b;
    g.m = std::min(tile.rows, m - row);
    g.n = std::min(tile.columns, n - column);
    g.k = k;
    g.a = a_data + (transpose_a ? row : row * k);
    g.lda = transpose_a ? m : k;
    g.b = b_data + (transpose_b ? column * k : column);
    g.ldb = transpose_b ? k : n;
    g.c = c_data + row * n + column;
    g.ldc = n;
    Gemm(g);
  });
  return absl::OkStatus();
}

}  // namespace

void RegisterMatMulKernels(KernelRegistry& kernels) {
  kernels.Register(kMatMul, DType::kF32, [](const KernelContext& ctx) {
    return ctx.in(1).dtype == DType::kBF16 ? RunNarrowMatMul(ctx)
                                           : RunMatMul<float>(ctx);
  });
  kernels.Register(kMatMul, DType::kF64, RunMatMul<double>);
}

}  // namespace strata
