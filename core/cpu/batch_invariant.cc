#include "core/cpu/batch_invariant.h"

#include <algorithm>
#include <cstdint>
#include <type_traits>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "core/cpu/activation.h"
#include "core/cpu/attend/packed_attention.h"
#include "core/cpu/biased_score.h"
#include "core/cpu/cached_attention.h"
#include "core/cpu/dispatch.h"
#include "core/cpu/elementwise.h"
#include "core/cpu/embedding.h"
#include "core/cpu/fused/fused.h"
#include "core/cpu/gate.h"
#include "core/cpu/gate_select.h"
#include "core/cpu/latent_key_value.h"
#include "core/cpu/norm.h"
#include "core/cpu/paged_attention.h"
#include "core/cpu/quant_matmul.h"
#include "core/cpu/rope.h"
#include "core/cpu/row_products.h"
#include "core/ops/absorbed_attention.h"
#include "core/ops/grouped_matmul.h"
#include "core/ops/matmul.h"
#include "core/runtime/kernel.h"
#include "core/runtime/kernel_registry.h"
#include "core/tensor/bfloat16.h"
#include "core/tensor/dtype.h"
#include "core/tensor/tensor.h"

namespace strata {
namespace {

// Elements of b that one piece of work reads: 128 KB of floats, so that they
// stay in a core's second cache while rows of a pass.
constexpr int64_t kPieceElements = 32768;
// Rows of a piece: of more, a piece would keep one thread busy alone.
constexpr int64_t kPieceRows = 64;

int64_t CeilDiv(int64_t a, int64_t b) { return (a + b - 1) / b; }

// The product that `g` describes, b being [n, k] (`dots`) or [k, n], in pieces
// of rows and columns; piece `index` of the count that NumPieces gives.
struct Pieces {
  int64_t columns, column_pieces, row_pieces;

  Pieces(int64_t m, int64_t n, int64_t k)
      : columns(std::clamp<int64_t>(
            kPieceElements / std::max<int64_t>(1, k) / 16 * 16, 16,
            std::max<int64_t>(16, n))),
        column_pieces(CeilDiv(n, columns)),
        row_pieces(CeilDiv(m, kPieceRows)) {}

  int64_t count() const { return column_pieces * row_pieces; }

  template <typename T, typename W>
  void Run(RowProductArgs<T, W> g, bool dots, int64_t index) const {
    // Neighbours share their part of b, the one that is larger as a rule.
    const int64_t row = index % row_pieces * kPieceRows;
    const int64_t column = index / row_pieces * columns;
    g.a += row * g.lda;
    g.b += dots ? column * g.ldb : column;
    g.c += row * g.ldc + column;
    g.m = std::min(kPieceRows, g.m - row);
    g.n = std::min(columns, g.n - column);
    if constexpr (std::is_same_v<W, BFloat16>) {
      NarrowRowProducts::Get().by_dots(g);  // BF16 weights are of layers: w^T.
    } else {
      const RowProducts<T>& products = RowProducts<T>::Get();
      dots ? products.by_dots(g) : products.by_sums(g);
    }
  }
};

template <typename T, typename W>
absl::Status RunMatMul(const KernelContext& ctx) {
  if (ctx.attrs().Int("transpose_lhs") != 0) {
    return absl::UnimplementedError(
        "a product with a transposed lhs sums over the batch");
  }
  const bool dots = ctx.attrs().Int("transpose_rhs") != 0;
  RowProductArgs<T, W> g;
  g.m = ctx.in(0).dim(0);
  g.k = ctx.in(0).dim(1);
  g.n = ctx.in(1).dim(dots ? 0 : 1);
  g.a = ctx.in(0).as<T>();
  g.lda = g.k;
  g.b = ctx.in(1).as<W>();
  g.ldb = dots ? g.k : g.n;
  g.c = ctx.out(0).as<T>();
  g.ldc = g.n;
  const Pieces pieces(g.m, g.n, g.k);
  ctx.pool.ParallelFor(pieces.count(),
                       [&](int64_t index) { pieces.Run(g, dots, index); });
  return absl::OkStatus();
}

// The pieces of one expert.
struct ExpertPieces {
  int32_t expert;
  int32_t first_piece;  // Of all; the next expert's is where they end.
};

template <typename T, typename W>
absl::Status RunGroupedMatMul(const KernelContext& ctx) {
  const bool dots = ctx.attrs().Int("transpose_w") != 0;
  const int64_t rows = ctx.in(0).dim(0), k = ctx.in(0).dim(1);
  const int64_t experts = ctx.in(1).dim(0);
  const int64_t n = ctx.in(1).dim(dots ? 1 : 2);
  const T* const x = ctx.in(0).as<T>();                   // [rows, k]
  const W* const w = ctx.in(1).as<W>();                   // [experts, n, k]
  const int32_t* const offset = ctx.in(2).as<int32_t>();  // [experts + 1]
  T* const y = ctx.out(0).as<T>();                        // [rows, n]
  auto* const busy = ctx.scratch.Take<ExpertPieces>(experts + 1);
  int64_t num_busy = 0;
  int32_t num_pieces = 0;
  for (int64_t e = 0; e < experts; ++e) {
    if (offset[e] > offset[e + 1] || offset[e] < 0 || offset[e + 1] > rows) {
      return absl::InvalidArgumentError(
          absl::StrCat("expert ", e, " owns rows from ", offset[e], " to ",
                       offset[e + 1], " of ", rows));
    }
    if (offset[e] == offset[e + 1]) continue;
    busy[num_busy++] = {static_cast<int32_t>(e), num_pieces};
    num_pieces += Pieces(offset[e + 1] - offset[e], n, k).count();
  }
  ctx.pool.ParallelFor(num_pieces, [&](int64_t index) {
    const ExpertPieces* const after = std::upper_bound(
        busy, busy + num_busy, index,
        [](int64_t i, const ExpertPieces& e) { return i < e.first_piece; });
    const ExpertPieces& mine = *(after - 1);
    const int64_t first = offset[mine.expert];
    RowProductArgs<T, W> g;
    g.m = offset[mine.expert + 1] - first;
    g.n = n;
    g.k = k;
    g.a = x + first * k;
    g.lda = k;
    g.b = w + mine.expert * n * k;
    g.ldb = dots ? k : n;
    g.c = y + first * n;
    g.ldc = n;
    Pieces(g.m, n, k).Run(g, dots, index - mine.first_piece);
  });
  return absl::OkStatus();
}

// One piece of work is one head: q_nope W_K beside the rotary part.
template <typename T>
absl::Status RunLatentQuery(const KernelContext& ctx) {
  const int64_t t = ctx.in(0).dim(0), ld_q = ctx.in(0).dim(1);
  const int64_t rank = ctx.in(1).dim(1), ld_out = ctx.out(0).dim(1);
  const int64_t nope = ctx.attrs().Int("nope");
  const int64_t rope = ctx.attrs().Int("rope");
  const int64_t value = ctx.attrs().Int("value");
  const T* const q = ctx.in(0).as<T>();     // [t, heads * (nope + rope)]
  const T* const kv_b = ctx.in(1).as<T>();  // [heads * (nope + value), rank]
  T* const out = ctx.out(0).as<T>();        // [t, heads * (rank + rope)]
  ctx.pool.ParallelFor(ctx.attrs().Int("num_heads"), [&](int64_t head) {
    RowProductArgs<T> g;
    g.m = t;
    g.n = rank;
    g.k = nope;
    g.a = q + head * (nope + rope);
    g.lda = ld_q;
    g.b = kv_b + head * (nope + value) * rank;
    g.ldb = rank;
    g.c = out + head * (rank + rope);
    g.ldc = ld_out;
    RowProducts<T>::Get().by_sums(g);
    for (int64_t i = 0; i < t; ++i) {
      std::copy_n(g.a + i * ld_q + nope, rope, g.c + i * ld_out + rank);
    }
  });
  return absl::OkStatus();
}

// One piece of work is one head: o' W_V^T.
template <typename T>
absl::Status RunLatentOutput(const KernelContext& ctx) {
  const int64_t nope = ctx.attrs().Int("nope");
  const int64_t value = ctx.attrs().Int("value");
  const int64_t rank = ctx.in(1).dim(1);
  const T* const o = ctx.in(0).as<T>();     // [t, heads * rank]
  const T* const kv_b = ctx.in(1).as<T>();  // [heads * (nope + value), rank]
  T* const out = ctx.out(0).as<T>();        // [t, heads * value]
  ctx.pool.ParallelFor(ctx.attrs().Int("num_heads"), [&](int64_t head) {
    RowProductArgs<T> g;
    g.m = ctx.in(0).dim(0);
    g.n = value;
    g.k = rank;
    g.a = o + head * rank;
    g.lda = ctx.in(0).dim(1);
    g.b = kv_b + (head * (nope + value) + nope) * rank;
    g.ldb = rank;
    g.c = out + head * value;
    g.ldc = ctx.out(0).dim(1);
    RowProducts<T>::Get().by_dots(g);
  });
  return absl::OkStatus();
}

template <typename T>
void RegisterProducts(KernelRegistry& kernels, DType dtype) {
  kernels.Register(kMatMul, dtype, [](const KernelContext& ctx) {
    if constexpr (std::is_same_v<T, float>) {
      if (ctx.in(1).dtype == DType::kBF16) return RunMatMul<T, BFloat16>(ctx);
    }
    return RunMatMul<T, T>(ctx);
  });
  kernels.Register(kGroupedMatMul, dtype, [](const KernelContext& ctx) {
    if constexpr (std::is_same_v<T, float>) {
      if (ctx.in(1).dtype == DType::kBF16) {
        return RunGroupedMatMul<T, BFloat16>(ctx);
      }
    }
    return RunGroupedMatMul<T, T>(ctx);
  });
  kernels.Register(kLatentQuery, dtype, RunLatentQuery<T>);
  kernels.Register(kLatentOutput, dtype, RunLatentOutput<T>);
}

}  // namespace

void RegisterBatchInvariantProducts(KernelRegistry& kernels) {
  RegisterProducts<float>(kernels, DType::kF32);
  RegisterProducts<double>(kernels, DType::kF64);
}

KernelRegistry BatchInvariantCpuKernels() {
  KernelRegistry registry;
  RegisterActivationKernels(registry);
  RegisterBatchInvariantProducts(registry);
  RegisterBatchInvariantQuantKernels(registry);
  RegisterBiasedScoreKernels(registry);
  RegisterCachedAttentionKernels(registry);
  RegisterDispatchKernels(registry);
  RegisterElementwiseKernels(registry);
  RegisterEmbeddingKernels(registry);
  RegisterFusedKernels(registry);
  RegisterGateKernels(registry);
  RegisterGateSelectKernels(registry);
  RegisterLatentKeyValueKernels(registry);
  RegisterNormKernels(registry);
  RegisterPackedAttentionKernels(registry);
  RegisterPagedAttentionKernels(registry);
  RegisterRopeKernels(registry);
  return registry;
}

}  // namespace strata
