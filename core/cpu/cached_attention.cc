#include "core/cpu/cached_attention.h"

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/types/span.h"
#include "core/base/status_macros.h"
#include "core/cpu/attention_block.h"
#include "core/cpu/row_products.h"
#include "core/cpu/vector_math.h"
#include "core/ops/absorbed_attention.h"
#include "core/ops/attention.h"
#include "core/runtime/kernel.h"
#include "core/runtime/kernel_registry.h"
#include "core/tensor/tensor.h"

namespace strata {
namespace {

// Where a token's keys lie: rows [first, first + keys) of the cache.
absl::Status CheckCacheRows(const int32_t* first_row, const int32_t* position,
                            int64_t t, int64_t slots) {
  for (int64_t i = 0; i < t; ++i) {
    const int64_t last = int64_t{first_row[i]} + position[i];
    if (first_row[i] >= 0 && position[i] >= 0 && last < slots) continue;
    return absl::InvalidArgumentError(absl::StrCat(
        "token ", i, " is at position ", position[i], " from cache row ",
        first_row[i], "; want both 0 or more, and rows below ", slots));
  }
  return absl::OkStatus();
}

template <typename T>
absl::Status RunCacheWrite(const KernelContext& ctx) {
  T* const cache = ctx.in(0).as<T>();                  // [slots, n]
  const T* const rows = ctx.in(1).as<T>();             // [t, n]
  const int32_t* const row = ctx.in(2).as<int32_t>();  // [t]
  const int64_t slots = ctx.in(0).dim(0), n = ctx.in(0).dim(1);
  const int64_t t = ctx.in(1).dim(0);
  for (int64_t i = 0; i < t; ++i) {
    if (row[i] < 0 || row[i] >= slots) {
      return absl::InvalidArgumentError(
          absl::StrCat("token ", i, " goes to cache row ", row[i],
                       "; want 0 to ", slots - 1));
    }
  }
  for (int64_t i = 0; i < t; ++i) {
    std::copy_n(rows + i * n, n, cache + row[i] * n);
  }
  return absl::OkStatus();
}

absl::Status RunCopyCacheRows(const KernelContext& ctx) {
  const TensorView& cache = ctx.in(0);  // [slots, n]
  const int64_t slots = cache.dim(0);
  const int64_t bytes = slots > 0 ? cache.num_bytes() / slots : 0;
  const absl::Span<const int32_t> from = ctx.in(1).span<int32_t>();
  const absl::Span<const int32_t> to = ctx.in(2).span<int32_t>();
  for (const absl::Span<const int32_t> rows : {from, to}) {
    for (const int32_t row : rows) {
      if (row >= 0 && row < slots) continue;
      return absl::InvalidArgumentError(absl::StrCat(
          "cache row ", row, " is to be copied; want 0 to ", slots - 1));
    }
  }
  char* const data = static_cast<char*>(cache.data);
  for (size_t i = 0; i < from.size(); ++i) {
    std::memcpy(data + to[i] * bytes, data + from[i] * bytes, bytes);
  }
  return absl::OkStatus();
}

// Tokens i .. i + rows of one sequence, at consecutive positions.
struct Run {
  int64_t token;
  int64_t rows;
};

// Cuts the tokens into runs of at most kAttentionBlock; returns how many.
int64_t FindRuns(const int32_t* first_row, const int32_t* position, int64_t t,
                 Run* runs) {
  int64_t count = 0;
  for (int64_t i = 0; i < t; ++i) {
    const bool goes_on = count > 0 && runs[count - 1].rows < kAttentionBlock &&
                         first_row[i] == first_row[i - 1] &&
                         position[i] == position[i - 1] + 1;
    if (goes_on) {
      ++runs[count - 1].rows;
    } else {
      runs[count++] = {i, 1};
    }
  }
  return count;
}

// One token and one KV head, bound by reading the cache: each key and each
// value is read once for all query heads of the group.
template <typename T>
void AttendOneToken(const AttentionSizes& sizes, int64_t keys, const T* q,
                    const T* k, const T* v, T* o, T* score) {
  const VectorMath<T>& vec = VectorMath<T>::Get();
  const RowProducts<T>& products = RowProducts<T>::Get();
  const int64_t ld_score = PaddedKeys(keys);
  RowProductArgs<T> g;
  g.m = sizes.group;
  g.n = keys;
  g.k = g.lda = sizes.key_dim;
  g.a = q;
  g.b = k;
  g.ldb = sizes.ld_k;
  g.c = score;
  g.ldc = ld_score;
  products.by_dots(g);
  for (int64_t h = 0; h < sizes.group; ++h) {
    T* const row = score + h * ld_score;
    vec.softmax(row, static_cast<T>(sizes.scale), keys, row);
  }
  g.n = g.ldc = sizes.value_dim;
  g.k = keys;
  g.a = score;
  g.lda = ld_score;
  g.b = v;
  g.ldb = sizes.ld_v;
  g.c = o;
  products.by_sums(g);
}

// Query heads in one piece of work. Where all share one KV head, as over
// latents, there would else be one piece to a token.
constexpr int64_t kPieceHeads = 8;

// Runs of so few tokens go one by one: they are bound by reading the cache, and
// a token then rounds the same whatever comes with it.
constexpr int64_t kMaxSingleRows = 8;

// Tokens i attend from q to rows of k_cache and v_cache, which may be one.
template <typename T>
absl::Status AttendCache(const KernelContext& ctx, const AttentionSizes& sizes,
                         const T* k_cache, const T* v_cache, int64_t slots,
                         const int32_t* first_row, const int32_t* position) {
  const int64_t t = ctx.in(0).dim(0);
  const T* const q = ctx.in(0).as<T>();  // [t, ld_q]
  T* const o = ctx.out(0).as<T>();       // [t, ld_o]
  RETURN_IF_ERROR(CheckCacheRows(first_row, position, t, slots));

  Run* const runs = ctx.scratch.Take<Run>(t);
  const int64_t num_runs = FindRuns(first_row, position, t, runs);
  int64_t longest = 0, most_rows = 0;
  for (int64_t i = 0; i < t; ++i) {
    longest = std::max<int64_t>(longest, position[i] + 1);
  }
  for (int64_t i = 0; i < num_runs; ++i) {
    most_rows = std::max(most_rows, runs[i].rows);
  }
  const int64_t k_size =
      most_rows > kMaxSingleRows ? TransposedSize(longest, sizes.key_dim) : 0;
  const int64_t heads = std::min(sizes.group, kPieceHeads);  // Of a piece.
  const int64_t pieces = (sizes.group + heads - 1) / heads;
  const int64_t worker_size =
      k_size + std::max(most_rows, heads) * PaddedKeys(longest);
  T* const scratch = ctx.scratch.Take<T>(ctx.pool.num_threads() * worker_size);
  ctx.pool.ParallelFor(
      num_runs * sizes.num_kv_heads * pieces, [&](int64_t index, int worker) {
        const int64_t first_of_group = index % pieces * heads;
        const int64_t kv_head = index / pieces % sizes.num_kv_heads;
        const Run& run = runs[index / pieces / sizes.num_kv_heads];
        AttentionSizes piece = sizes;
        piece.group = std::min(heads, sizes.group - first_of_group);
        const int64_t keys = position[run.token] + run.rows;
        const int64_t first = first_row[run.token];
        const int64_t head = kv_head * sizes.group + first_of_group;
        const T* const k =
            k_cache + first * sizes.ld_k + kv_head * sizes.key_dim;
        const T* const v =
            v_cache + first * sizes.ld_v + kv_head * sizes.value_dim;
        const T* const q_first =
            q + run.token * sizes.ld_q + head * sizes.key_dim;
        T* const o_first = o + run.token * sizes.ld_o + head * sizes.value_dim;
        T* const transposed_k = scratch + worker * worker_size;
        T* const score = transposed_k + k_size;
        if (run.rows <= kMaxSingleRows) {
          for (int64_t i = 0; i < run.rows; ++i) {
            const int64_t seen = keys - run.rows + 1 + i;
            const int64_t skip = sizes.FirstSeen(seen);
            AttendOneToken(piece, seen - skip, q_first + i * sizes.ld_q,
                           k + skip * sizes.ld_k, v + skip * sizes.ld_v,
                           o_first + i * sizes.ld_o, score);
          }
          return;
        }
        TransposeKeys(keys, sizes.key_dim, k, sizes.ld_k, transposed_k);
        for (int64_t h = 0; h < piece.group; ++h) {
          AttentionBlock<T> block = {sizes};
          block.rows = run.rows;
          block.keys = keys;
          block.q = q_first + h * sizes.key_dim;
          block.transposed_k = transposed_k;
          block.v = v;
          block.o = o_first + h * sizes.value_dim;
          block.score = score;
          block.Run();
        }
      });
  return absl::OkStatus();
}

template <typename T>
absl::Status RunCachedAttention(const KernelContext& ctx) {
  return AttendCache<T>(ctx, AttentionSizes(ctx.attrs(), ctx.in(0), ctx.in(2)),
                        ctx.in(1).as<T>(), ctx.in(2).as<T>(), ctx.in(1).dim(0),
                        ctx.in(3).as<int32_t>(), ctx.in(4).as<int32_t>());
}

// The values are the first columns of the keys.
template <typename T>
absl::Status RunCachedLatentAttention(const KernelContext& ctx) {
  AttentionSizes sizes(ctx.attrs(), ctx.in(0), ctx.in(1));
  sizes.value_dim = ctx.attrs().Int("rank");
  sizes.ld_o = sizes.num_heads * sizes.value_dim;
  const T* const cache = ctx.in(1).as<T>();  // [slots, rank + rope]
  return AttendCache<T>(ctx, sizes, cache, cache, ctx.in(1).dim(0),
                        ctx.in(2).as<int32_t>(), ctx.in(3).as<int32_t>());
}

}  // namespace

absl::Status AttendToCache(const KernelContext& ctx) {
  return ctx.in(0).dtype == DType::kF64 ? RunCachedAttention<double>(ctx)
                                        : RunCachedAttention<float>(ctx);
}

absl::Status AttendToLatentCache(const KernelContext& ctx) {
  return ctx.in(0).dtype == DType::kF64 ? RunCachedLatentAttention<double>(ctx)
                                        : RunCachedLatentAttention<float>(ctx);
}

void RegisterCachedAttentionKernels(KernelRegistry& kernels) {
  kernels.Register(kCacheWrite, DType::kF32, RunCacheWrite<float>);
  kernels.Register(kCacheWrite, DType::kF64, RunCacheWrite<double>);
  for (const DType dtype : {DType::kF32, DType::kF64, DType::kI32}) {
    kernels.Register(kCopyCacheRows, dtype, RunCopyCacheRows);
  }
  kernels.Register(kCachedAttention, DType::kF32, RunCachedAttention<float>);
  kernels.Register(kCachedAttention, DType::kF64, RunCachedAttention<double>);
  kernels.Register(kCachedLatentAttention, DType::kF32,
                   RunCachedLatentAttention<float>);
  kernels.Register(kCachedLatentAttention, DType::kF64,
                   RunCachedLatentAttention<double>);
}

}  // namespace strata
