// A piece of work is a run of tokens of one sequence and one KV head:
//
//            block 7      block 2     block 9
//          +-----------+-----------+-----+
//   rows   | q k^T     |           |   . |  scores of whole rows, a block at a
//          |           |           | .   |  time; softmax of what a row sees,
//          +-----------+-----------+-----+  zeros behind; then sums of values,
//                                           block after block
//
// A score is one dot product, a softmax depends on its row alone, and a row of
// the result is one chain of additions over keys, in which a zero changes
// nothing. So the run in which a token comes leaves no trace.

#include "core/cpu/paged_attention.h"

#include <algorithm>
#include <cstdint>

#include "absl/status/status.h"
#include "core/base/status_macros.h"
#include "core/cpu/attend/cache_view.h"
#include "core/cpu/attention_block.h"
#include "core/cpu/fused/fused_tiles.h"
#include "core/cpu/row_products.h"
#include "core/cpu/vector_math.h"
#include "core/ops/paged_attention.h"
#include "core/runtime/kernel.h"
#include "core/runtime/kernel_registry.h"
#include "core/tensor/tensor.h"

namespace strata {
namespace {

// Query heads of a piece. Where all share one KV head, as over latents, there
// would else be one piece to a run.
constexpr int64_t kPieceHeads = 8;

// Rows of queries that see the first `keys - rows + 1` to `keys` keys of a
// sequence (`step` 1), or all `keys` of them (`step` 0: heads of one token).
template <typename T>
struct PageBlock {
  const AttentionSizes& sizes;
  const CacheView& pages;
  int64_t sequence = 0;
  int64_t rows = 0, keys = 0, step = 0;
  const T* q = nullptr;
  int64_t ld_q = 0;
  const T* k = nullptr;  // Of the KV head, at the cache's first row.
  const T* v = nullptr;
  T* o = nullptr;
  int64_t ld_o = 0;
  T* score = nullptr;  // [rows, PaddedKeys(keys)]

  void Run() const {
    const RowProducts<T>& products = RowProducts<T>::Get();
    const VectorMath<T>& vec = VectorMath<T>::Get();
    const int64_t size = pages.block_size, ld_score = PaddedKeys(keys);
    // What no row sees is left out, in whole blocks.
    const int64_t least_seen = keys - step * (rows - 1);
    const int64_t first_block = sizes.FirstSeen(least_seen) / size;
    RowProductArgs<T> g;
    g.m = rows;
    for (int64_t first = first_block * size; first < keys; first += size) {
      g.n = std::min(size, keys - first);
      g.k = sizes.key_dim;
      g.a = q;
      g.lda = ld_q;
      g.b = k + pages.Slot(sequence, first) * sizes.ld_k;
      g.ldb = sizes.ld_k;
      g.c = score + first;
      g.ldc = ld_score;
      products.by_dots(g);
    }
    for (int64_t i = 0; i < rows; ++i) {
      T* const row = score + i * ld_score;
      const int64_t seen = keys - step * (rows - 1 - i);
      const int64_t begin = sizes.FirstSeen(seen);
      vec.softmax(row + begin, static_cast<T>(sizes.scale), seen - begin,
                  row + begin);
      std::fill(row + first_block * size, row + begin, T{0});
      std::fill(row + seen, row + keys, T{0});
    }
    for (int64_t first = first_block * size; first < keys; first += size) {
      g.n = sizes.value_dim;
      g.k = std::min(size, keys - first);
      g.a = score + first;
      g.lda = ld_score;
      g.b = v + pages.Slot(sequence, first) * sizes.ld_v;
      g.ldb = sizes.ld_v;
      g.c = o;
      g.ldc = ld_o;
      g.add = first > first_block * size;
      products.by_sums(g);
    }
  }
};

// From input `first` on.
CacheView ViewOfPages(const KernelContext& ctx, int first) {
  return {ctx.in(first), ctx.in(first + 1), ctx.in(first + 2),
          ctx.attrs().Int("block_size")};
}

// Tokens attend from q to rows of k_cache and v_cache, which may be one.
template <typename T>
absl::Status AttendPages(const KernelContext& ctx, const AttentionSizes& sizes,
                         const T* k_cache, const T* v_cache, int64_t slots,
                         const CacheView& pages) {
  const int64_t t = ctx.in(0).dim(0);
  const T* const q = ctx.in(0).as<T>();  // [t, ld_q]
  T* const o = ctx.out(0).as<T>();       // [t, ld_o]
  TokenRun* const runs = ctx.scratch.Take<TokenRun>(t);
  const int64_t num_runs = pages.FindRuns(t, runs);
  int64_t longest = 0, products = 0;
  for (int64_t i = 0; i < num_runs; ++i) {
    RETURN_IF_ERROR(pages.Check(runs[i].token, slots));
    const int64_t last = runs[i].token + runs[i].rows - 1;
    RETURN_IF_ERROR(pages.Check(last, slots));
    longest = std::max<int64_t>(longest, pages.position[last] + 1);
    products += runs[i].rows * (pages.position[last] + 1) * sizes.num_heads *
                (sizes.key_dim + sizes.value_dim);
  }
  const int64_t heads = std::min(sizes.group, kPieceHeads);  // Of a piece.
  const int64_t pieces = (sizes.group + heads - 1) / heads;
  const int64_t worker_size =
      std::max(kRunTokens, kPieceHeads) * PaddedKeys(longest);
  T* const scratch = ctx.scratch.Take<T>(ctx.pool.num_threads() * worker_size);
  const auto attend = [&](int64_t index, int worker) {
    const int64_t first_of_group = index % pieces * heads;
    const int64_t kv_head = index / pieces % sizes.num_kv_heads;
    const TokenRun& run = runs[index / pieces / sizes.num_kv_heads];
    const int64_t group = std::min(heads, sizes.group - first_of_group);
    const int64_t head = kv_head * sizes.group + first_of_group;
    PageBlock<T> block = {sizes, pages};
    block.sequence = pages.where[run.token];
    block.keys = pages.position[run.token] + run.rows;
    block.q = q + run.token * sizes.ld_q + head * sizes.key_dim;
    block.k = k_cache + kv_head * sizes.key_dim;
    block.v = v_cache + kv_head * sizes.value_dim;
    block.o = o + run.token * sizes.ld_o + head * sizes.value_dim;
    block.score = scratch + worker * worker_size;
    if (run.rows == 1) {  // Heads are rows: keys are read once for all.
      block.rows = group;
      block.ld_q = sizes.key_dim;
      block.ld_o = sizes.value_dim;
      block.Run();
      return;
    }
    block.rows = run.rows;
    block.step = 1;
    block.ld_q = sizes.ld_q;
    block.ld_o = sizes.ld_o;
    for (int64_t h = 0; h < group; ++h) {
      block.Run();
      block.q += sizes.key_dim;
      block.o += sizes.value_dim;
    }
  };
  ForPieces(ctx.pool, num_runs * sizes.num_kv_heads * pieces, products, attend);
  return absl::OkStatus();
}

template <typename T>
absl::Status RunPagedAttention(const KernelContext& ctx) {
  return AttendPages<T>(ctx, AttentionSizes(ctx.attrs(), ctx.in(0), ctx.in(2)),
                        ctx.in(1).as<T>(), ctx.in(2).as<T>(), ctx.in(1).dim(0),
                        ViewOfPages(ctx, /*first=*/3));
}

// The values are the first columns of the keys.
template <typename T>
absl::Status RunPagedLatentAttention(const KernelContext& ctx) {
  AttentionSizes sizes(ctx.attrs(), ctx.in(0), ctx.in(1));
  sizes.value_dim = ctx.attrs().Int("rank");
  sizes.ld_o = sizes.num_heads * sizes.value_dim;
  const T* const cache = ctx.in(1).as<T>();  // [slots, rank + rope]
  return AttendPages<T>(ctx, sizes, cache, cache, ctx.in(1).dim(0),
                        ViewOfPages(ctx, /*first=*/2));
}

}  // namespace

absl::Status AttendToPages(const KernelContext& ctx) {
  return ctx.in(0).dtype == DType::kF64 ? RunPagedAttention<double>(ctx)
                                        : RunPagedAttention<float>(ctx);
}

absl::Status AttendToLatentPages(const KernelContext& ctx) {
  return ctx.in(0).dtype == DType::kF64 ? RunPagedLatentAttention<double>(ctx)
                                        : RunPagedLatentAttention<float>(ctx);
}

void RegisterPagedAttentionKernels(KernelRegistry& kernels) {
  kernels.Register(kPagedAttention, DType::kF32, RunPagedAttention<float>);
  kernels.Register(kPagedAttention, DType::kF64, RunPagedAttention<double>);
  kernels.Register(kPagedLatentAttention, DType::kF32,
                   RunPagedLatentAttention<float>);
  kernels.Register(kPagedLatentAttention, DType::kF64,
                   RunPagedLatentAttention<double>);
}

}  // namespace strata
