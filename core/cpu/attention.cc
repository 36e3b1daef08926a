#include "core/cpu/attention.h"

#include <algorithm>
#include <cstdint>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "core/base/status_macros.h"
#include "core/cpu/attention_block.h"
#include "core/cpu/cached_attention.h"
#include "core/cpu/gemm.h"
#include "core/cpu/latent_key_value.h"
#include "core/cpu/vector_math.h"
#include "core/ops/attention.h"
#include "core/runtime/kernel.h"
#include "core/runtime/kernel_registry.h"
#include "core/tensor/tensor.h"

namespace strata {
namespace {

// Queries in one piece of forward work, so that one long sequence is shared
// out.
constexpr int64_t kPiece = 256;

// Where the rows of each sequence start.
struct Sequences {
  const int32_t* start;  // [count + 1]
  int64_t count;
  int64_t longest;
};

absl::Status ReadSequences(const TensorView& seq_start, int64_t t,
                           Sequences& sequences) {
  const int32_t* const start = seq_start.as<int32_t>();
  const int64_t count = seq_start.dim(0) - 1;
  if (start[0] != 0 || start[count] != t) {
    return absl::InvalidArgumentError(
        absl::StrCat("seq_start runs from ", start[0], " to ", start[count],
                     "; want 0 to ", t, ", the rows of q"));
  }
  int64_t longest = 0;
  for (int64_t s = 0; s < count; ++s) {
    if (start[s + 1] < start[s]) {
      return absl::InvalidArgumentError(
          absl::StrCat("seq_start[", s + 1, "] is ", start[s + 1],
                       "; want at least ", start[s], ", the start before it"));
    }
    longest = std::max<int64_t>(longest, start[s + 1] - start[s]);
  }
  sequences = {start, count, longest};
  return absl::OkStatus();
}

template <typename T>
absl::Status RunAttention(const KernelContext& ctx) {
  const AttentionSizes sizes(ctx.attrs(), ctx.in(0), ctx.in(2));
  const int64_t t = ctx.in(0).dim(0);
  const T* const q = ctx.in(0).as<T>();  // [t, ld_q]
  const T* const k = ctx.in(1).as<T>();  // [t, ld_k]
  const T* const v = ctx.in(2).as<T>();  // [t, ld_v]
  T* const o = ctx.out(0).as<T>();       // [t, ld_o]
  T* const lse = ctx.out(1).as<T>();     // [t, num_heads]
  Sequences sequences;
  RETURN_IF_ERROR(ReadSequences(ctx.in(3), t, sequences));

  const int64_t score_size = kAttentionBlock * PaddedKeys(sequences.longest);
  T* const scratch = ctx.scratch.Take<T>(ctx.pool.num_threads() * score_size);
  const int64_t pieces = (sequences.longest + kPiece - 1) / kPiece;
  ctx.pool.ParallelFor(
      sequences.count * sizes.num_heads * pieces,
      [&](int64_t index, int worker) {
        const int64_t piece = index % pieces;
        const int64_t head = index / pieces % sizes.num_heads;
        const int64_t s = index / pieces / sizes.num_heads;
        const int64_t begin = sequences.start[s];
        const int64_t length = sequences.start[s + 1] - begin;
        const int64_t kv_head = head / sizes.group;
        const int64_t end = std::min(length, (piece + 1) * kPiece);
        for (int64_t i = piece * kPiece; i < end; i += kAttentionBlock) {
          const int64_t rows = std::min(kAttentionBlock, end - i);
          const int64_t row = begin + i;
          AttentionBlock<T>{sizes,
                            rows,
                            /*keys=*/i + rows,
                            q + row * sizes.ld_q + head * sizes.key_dim,
                            k + begin * sizes.ld_k + kv_head * sizes.key_dim,
                            v + begin * sizes.ld_v + kv_head * sizes.value_dim,
                            o + row * sizes.ld_o + head * sizes.value_dim,
                            lse + row * sizes.num_heads + head,
                            sizes.num_heads,
                            scratch + worker * score_size}
              .Run();
        }
      });
  return absl::OkStatus();
}

// The gradients of one block of queries of one head.
template <typename T>
struct BackwardBlock {
  const AttentionSizes& sizes;
  int64_t rows, keys;
  const T* dout;
  const T* q;
  const T* k;
  const T* v;
  const T* o;
  const T* lse;  // Of stride num_heads.
  T* dq;
  T* dk;
  T* dv;
  T add_to_dkv;  // 0: dk and dv are overwritten; 1: added to.
  T* p;          // [rows, PaddedKeys(keys)], scratch
  T* ds;         // [rows, PaddedKeys(keys)], scratch

  void Run() const {
    const VectorMath<T>& vec = VectorMath<T>::Get();
    const T scale = static_cast<T>(sizes.scale);
    const int64_t ld = PaddedKeys(keys);
    RowsByKeys(q, sizes.ld_q, k, sizes.ld_k, sizes.key_dim, p);
    RowsByKeys(dout, sizes.ld_o, v, sizes.ld_v, sizes.value_dim, ds);
    for (int64_t i = 0; i < rows; ++i) {
      T* const p_row = p + i * ld;
      T* const ds_row = ds + i * ld;
      const int64_t seen = keys - rows + 1 + i;
      const T delta =
          vec.dot(dout + i * sizes.ld_o, o + i * sizes.ld_o, sizes.value_dim);
      vec.exp(p_row, scale, lse[i * sizes.num_heads], 1, seen, p_row);
      vec.softmax_grad(ds_row, p_row, delta, scale, seen, ds_row);
      std::fill(p_row + seen, p_row + keys, T{0});
      std::fill(ds_row + seen, ds_row + keys, T{0});
    }
    GemmArgs<T> g;  // dq = ds k
    g.m = rows;
    g.n = sizes.key_dim;
    g.k = keys;
    g.a = ds;
    g.lda = ld;
    g.b = k;
    g.ldb = sizes.ld_k;
    g.c = dq;
    g.ldc = sizes.ld_q;
    Gemm(g);
    AddByKey(ds, q, sizes.ld_q, sizes.key_dim, dk, sizes.ld_k);
    AddByKey(p, dout, sizes.ld_o, sizes.value_dim, dv, sizes.ld_v);
  }

 private:
  // out [rows, keys] = a [rows, dim] b [keys, dim]^T
  void RowsByKeys(const T* a, int64_t lda, const T* b, int64_t ldb, int64_t dim,
                  T* out) const {
    GemmArgs<T> g;
    g.transpose_b = true;
    g.m = rows;
    g.n = keys;
    g.k = dim;
    g.a = a;
    g.lda = lda;
    g.b = b;
    g.ldb = ldb;
    g.c = out;
    g.ldc = PaddedKeys(keys);
    Gemm(g);
  }

  // out [keys, dim] = weight [rows, keys]^T a [rows, dim], or added to it
  void AddByKey(const T* weight, const T* a, int64_t lda, int64_t dim, T* out,
                int64_t ld_out) const {
    GemmArgs<T> g;
    g.transpose_a = true;
    g.m = keys;
    g.n = dim;
    g.k = rows;
    g.a = weight;
    g.lda = PaddedKeys(keys);
    g.b = a;
    g.ldb = lda;
    g.beta = add_to_dkv;
    g.c = out;
    g.ldc = ld_out;
    Gemm(g);
  }
};

// One piece of work is one KV head of one sequence, whose gradients it adds up
// over query heads and blocks, the last block first: that one sees all keys.
template <typename T>
absl::Status RunAttentionGrad(const KernelContext& ctx) {
  const AttentionSizes sizes(ctx.attrs(), ctx.in(1), ctx.in(3));
  const int64_t t = ctx.in(1).dim(0);
  const T* const dout = ctx.in(0).as<T>();  // [t, ld_o]
  const T* const q = ctx.in(1).as<T>();     // [t, ld_q]
  const T* const k = ctx.in(2).as<T>();     // [t, ld_k]
  const T* const v = ctx.in(3).as<T>();     // [t, ld_v]
  const T* const o = ctx.in(4).as<T>();     // [t, ld_o]
  const T* const lse = ctx.in(5).as<T>();   // [t, num_heads]
  T* const dq = ctx.out(0).as<T>();         // [t, ld_q]
  T* const dk = ctx.out(1).as<T>();         // [t, ld_k]
  T* const dv = ctx.out(2).as<T>();         // [t, ld_v]
  Sequences sequences;
  RETURN_IF_ERROR(ReadSequences(ctx.in(6), t, sequences));

  const int64_t block_size = kAttentionBlock * PaddedKeys(sequences.longest);
  T* const scratch =
      ctx.scratch.Take<T>(ctx.pool.num_threads() * 2 * block_size);
  ctx.pool.ParallelFor(sequences.count * sizes.num_kv_heads, [&](int64_t index,
                                                                 int worker) {
    const int64_t kv_head = index % sizes.num_kv_heads;
    const int64_t s = index / sizes.num_kv_heads;
    const int64_t begin = sequences.start[s];
    const int64_t length = sequences.start[s + 1] - begin;
    const int64_t k_at = begin * sizes.ld_k + kv_head * sizes.key_dim;
    const int64_t v_at = begin * sizes.ld_v + kv_head * sizes.value_dim;
    T* const p = scratch + worker * 2 * block_size;
    T add_to_dkv = 0;
    for (int64_t head = kv_head * sizes.group;
         head < (kv_head + 1) * sizes.group; ++head) {
      for (int64_t i = (length - 1) / kAttentionBlock * kAttentionBlock;
           i >= 0 && length > 0; i -= kAttentionBlock) {
        const int64_t rows = std::min(kAttentionBlock, length - i);
        const int64_t q_at = (begin + i) * sizes.ld_q + head * sizes.key_dim;
        const int64_t o_at = (begin + i) * sizes.ld_o + head * sizes.value_dim;
        BackwardBlock<T>{sizes,
                         rows,
                         /*keys=*/i + rows,
                         dout + o_at,
                         q + q_at,
                         k + k_at,
                         v + v_at,
                         o + o_at,
                         lse + (begin + i) * sizes.num_heads + head,
                         dq + q_at,
                         dk + k_at,
                         dv + v_at,
                         add_to_dkv,
                         p,
                         p + block_size}
            .Run();
        add_to_dkv = 1;
      }
    }
  });
  return absl::OkStatus();
}

}  // namespace

void RegisterAttentionKernels(KernelRegistry& kernels) {
  kernels.Register(kAttention, DType::kF32, RunAttention<float>);
  kernels.Register(kAttention, DType::kF64, RunAttention<double>);
  kernels.Register(kAttentionGrad, DType::kF32, RunAttentionGrad<float>);
  kernels.Register(kAttentionGrad, DType::kF64, RunAttentionGrad<double>);
  RegisterCachedAttentionKernels(kernels);
  RegisterLatentKeyValueKernels(kernels);
}

}  // namespace strata
