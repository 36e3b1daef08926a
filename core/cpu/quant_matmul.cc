#include "core/cpu/quant_matmul.h"

#include <algorithm>
#include <cstdint>
#include <string>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "core/cpu/gemm.h"
#include "core/cpu/quant/quant_panel.h"
#include "core/cpu/quant/quant_product.h"
#include "core/ops/mixed_matmul.h"
#include "core/ops/quant_matmul.h"
#include "core/quant/format.h"
#include "core/quant/mixed_rows.h"
#include "core/quant/packed_rows.h"
#include "core/runtime/kernel.h"
#include "core/runtime/kernel_registry.h"
#include "core/tensor/tensor.h"

namespace strata {
namespace {

// Beyond so many rows of one matrix, widening it for Gemm pays where the
// processor has no products for panels.
constexpr int64_t kMaxDotRows = 16;
// Bytes of weights that one piece of work reads: they stay in a core's second
// cache while rows of x pass.
constexpr int64_t kPieceBytes = 65536;
// Weights that are worth more than one piece, and what the number of pieces is
// a multiple of, all being alike: then two or four threads end together.
constexpr int64_t kSplitBytes = 32768;
constexpr int64_t kPieceMultiple = 4;
// Rows of x in a piece.
constexpr int64_t kPieceRows = 64;
// Rows of x that are rounded in one piece of work.
constexpr int64_t kQuantizeRows = 4;
// Columns of a tile that is widened.
constexpr int64_t kTileRows = 256;
constexpr int64_t kTileColumns = 128;

int64_t CeilDiv(int64_t a, int64_t b) { return (a + b - 1) / b; }

// Columns of y of a piece that goes row by row through n packed rows, in fours,
// whose sums are added up together.
int64_t DotColumns(int64_t n, int64_t row_bytes) {
  if (n * row_bytes <= kSplitBytes) return std::max<int64_t>(1, n);
  const int64_t pieces =
      CeilDiv(CeilDiv(n * row_bytes, kPieceBytes), kPieceMultiple) *
      kPieceMultiple;
  return CeilDiv(CeilDiv(n, pieces), 4) * 4;
}

// y [m, n] of the rows from `first` on by one matrix of w.
struct Product {
  int64_t first = 0;
  int64_t m = 0;
  const uint8_t* w = nullptr;
  float* y = nullptr;
};

// How a matrix is multiplied.
enum class Way {
  kDots,    // Row by row, in integers.
  kPanels,  // Tiles of weights as panels, in integers.
  kGemm,    // Tiles of weights widened, in float.
};

// For m rows of x and codes of `bits`; `invariant`: alike bit for bit for any
// m.
Way WayOf(int64_t m, int bits, bool invariant) {
  const QuantPanel& panel = QuantPanel::Get();
  if (invariant && !panel.as_dots) return Way::kDots;
  if (panel.multiply != nullptr) {
    const int64_t few = bits == 8 ? panel.few_rows_of_8_bits : panel.few_rows;
    return m <= few ? Way::kDots : Way::kPanels;
  }
  return m <= kMaxDotRows ? Way::kDots : Way::kGemm;
}

// A product in pieces.
struct Plan {
  QuantFormat format;
  int64_t k = 0, n = 0;
  Way way = Way::kDots;
  int64_t columns = 0;  // Of a piece.
  int64_t rows = 0;

  Plan(const QuantFormat& format, int64_t k, int64_t n, Way way)
      : format(format),
        k(k),
        n(n),
        way(way),
        columns(way == Way::kGemm ? std::min(n, kTileColumns)
                : way == Way::kPanels
                    ? kPanelRows
                    : DotColumns(n, PackedRow(format, k).bytes)),
        rows(way == Way::kDots ? kPieceRows : kTileRows) {}

  int64_t NumPieces(int64_t m) const {
    return CeilDiv(n, columns) * CeilDiv(m, rows);
  }
  // Of memory that a worker has for itself, a multiple of 64.
  int64_t TileBytes() const {
    return way == Way::kGemm     ? (columns * k * 4 + 63) / 64 * 64
           : way == Way::kPanels ? PanelBytes(k)
                                 : 0;
  }

  // `tile`: TileBytes().
  void Run(const Product& p, int64_t piece, const float* x,
           const QuantizedRows& quantized, char* tile) const {
    const int64_t row_pieces = CeilDiv(p.m, rows);
    const int64_t row = piece % row_pieces * rows;
    const int64_t column = piece / row_pieces * columns;
    const int64_t m = std::min(rows, p.m - row);
    const int64_t width = std::min(columns, n - column);
    const uint8_t* const w = p.w + column * PackedRow(format, k).bytes;
    float* const y = p.y + row * n + column;
    if (way == Way::kDots) {
      QuantProduct::Get().dots(quantized, p.first + row, m, w, format, k, width,
                               y, n);
      return;
    }
    if (way == Way::kPanels) {
      QuantPanel::Get().multiply(quantized, p.first + row, m, w, format, k,
                                 width, tile, y, n);
      return;
    }
    auto* const wide = reinterpret_cast<float*>(tile);
    QuantProduct::Get().widen(w, format, k, width, wide);
    GemmArgs<float> g;
    g.transpose_b = true;
    g.m = m;
    g.n = width;
    g.k = g.lda = g.ldb = k;
    g.a = x + (p.first + row) * k;
    g.b = wide;
    g.c = y;
    g.ldc = n;
    Gemm(g);
  }
};

// x in integers.
QuantizedRows QuantizeAll(const KernelContext& ctx) {
  const int64_t rows = ctx.in(0).dim(0), k = ctx.in(0).dim(1);
  const QuantizedRows quantized = QuantizedRows::At(
      ctx.scratch.Take<char>(QuantizedRows::NumBytes(rows, k)), rows, k);
  const float* const x = ctx.in(0).as<float>();
  if (rows == 1) {
    QuantProduct::Get().quantize(x, k, 0, 1, quantized);
    return quantized;
  }
  ctx.pool.ParallelFor(CeilDiv(rows, kQuantizeRows), [&](int64_t i) {
    const int64_t begin = i * kQuantizeRows;
    QuantProduct::Get().quantize(
        x, k, begin, std::min(rows, begin + kQuantizeRows), quantized);
  });
  return quantized;
}

template <bool kInvariant>
absl::Status RunDense(const KernelContext& ctx) {
  const QuantFormat format = FormatOf(ctx.attrs());
  const int64_t m = ctx.in(0).dim(0), k = ctx.in(0).dim(1);
  const int64_t n = ctx.in(1).dim(0);
  if (m == 0 || n == 0) return absl::OkStatus();
  const Plan plan(format, k, n, WayOf(m, format.bits, kInvariant));
  QuantizedRows quantized;
  if (plan.way != Way::kGemm) quantized = QuantizeAll(ctx);
  const int64_t bytes = plan.TileBytes();
  char* const tiles = ctx.scratch.Take<char>(ctx.pool.num_threads() * bytes);
  const Product product = {0, m, ctx.in(1).as<uint8_t>(),
                           ctx.out(0).as<float>()};
  const float* const x = ctx.in(0).as<float>();
  ctx.pool.ParallelFor(plan.NumPieces(m), [&](int64_t piece, int worker) {
    plan.Run(product, piece, x, quantized, tiles + worker * bytes);
  });
  return absl::OkStatus();
}

// An expert that has rows, its weights, and the first of its pieces among all.
struct BusyExpert {
  int32_t expert;
  int32_t first_piece;
  const uint8_t* w;
};

// Of experts that all have `format` or, if `letters` is not null, each its own.
template <bool kInvariant>
absl::Status RunExperts(const KernelContext& ctx, const QuantFormat& format,
                        const char* letters, int64_t experts, int64_t n) {
  const int64_t rows = ctx.in(0).dim(0), k = ctx.in(0).dim(1);
  const int32_t* const offset = ctx.in(2).as<int32_t>();  // [experts + 1]
  const auto format_of = [&](int64_t e) {
    return letters == nullptr ? format : *FormatOfLetter(letters[e]);
  };
  const auto plan_of = [&](int64_t e) {
    const QuantFormat mine = format_of(e);
    return Plan(mine, k, n,
                WayOf(offset[e + 1] - offset[e], mine.bits, kInvariant));
  };
  auto* const busy = ctx.scratch.Take<BusyExpert>(experts);
  int64_t num_busy = 0, tile_bytes = 0;
  int32_t num_pieces = 0;
  bool any_integers = false;
  const uint8_t* w = ctx.in(1).as<uint8_t>();
  if (letters != nullptr) w += LetterBytes(experts);
  for (int64_t e = 0; e < experts; ++e) {
    const int64_t m = offset[e + 1] - offset[e];
    if (m < 0 || offset[e] < 0 || offset[e + 1] > rows) {
      return absl::InvalidArgumentError(
          absl::StrCat("expert ", e, " owns rows from ", offset[e], " to ",
                       offset[e + 1], " of ", rows));
    }
    if (m > 0) {
      busy[num_busy++] = {static_cast<int32_t>(e), num_pieces, w};
      const Plan plan = plan_of(e);
      any_integers |= plan.way != Way::kGemm;
      tile_bytes = std::max(tile_bytes, plan.TileBytes());
      num_pieces += static_cast<int32_t>(plan.NumPieces(m));
    }
    w += n * PackedRow(format_of(e), k).bytes;
  }
  QuantizedRows quantized;
  if (any_integers) quantized = QuantizeAll(ctx);
  char* const tiles =
      ctx.scratch.Take<char>(ctx.pool.num_threads() * tile_bytes);
  const float* const x = ctx.in(0).as<float>();
  float* const y = ctx.out(0).as<float>();
  ctx.pool.ParallelFor(num_pieces, [&](int64_t index, int worker) {
    const BusyExpert* const after = std::upper_bound(
        busy, busy + num_busy, index,
        [](int64_t i, const BusyExpert& e) { return i < e.first_piece; });
    const BusyExpert& mine = *(after - 1);
    const int64_t first = offset[mine.expert];
    const Product product = {first, offset[mine.expert + 1] - first, mine.w,
                             y + first * n};
    plan_of(mine.expert)
        .Run(product, index - mine.first_piece, x, quantized,
             tiles + worker * tile_bytes);
  });
  return absl::OkStatus();
}

template <bool kInvariant>
absl::Status RunGrouped(const KernelContext& ctx) {
  return RunExperts<kInvariant>(ctx, FormatOf(ctx.attrs()), nullptr,
                                ctx.in(1).dim(0), ctx.in(1).dim(1));
}

template <bool kInvariant>
absl::Status RunMixed(const KernelContext& ctx) {
  const std::string& letters = ctx.attrs().String("formats");
  return RunExperts<kInvariant>(ctx, {}, letters.data(),
                                static_cast<int64_t>(letters.size()),
                                ctx.attrs().Int("n"));
}

}  // namespace

void RegisterQuantMatMulKernels(KernelRegistry& kernels) {
  kernels.Register(kQuantMatMul, DType::kF32, RunDense<false>);
  kernels.Register(kQuantGroupedMatMul, DType::kF32, RunGrouped<false>);
  kernels.Register(kMixedGroupedMatMul, DType::kF32, RunMixed<false>);
}

void RegisterBatchInvariantQuantKernels(KernelRegistry& kernels) {
  kernels.Register(kQuantMatMul, DType::kF32, RunDense<true>);
  kernels.Register(kQuantGroupedMatMul, DType::kF32, RunGrouped<true>);
  kernels.Register(kMixedGroupedMatMul, DType::kF32, RunMixed<true>);
}

}  // namespace strata
