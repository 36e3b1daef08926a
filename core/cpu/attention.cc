#include "core/cpu/attention.h"

#include <algorithm>
#include <cstdint>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "core/base/status_macros.h"
#include "core/cpu/absorbed_attention.h"
#include "core/cpu/attention_block.h"
#include "core/cpu/cached_attention.h"
#include "core/cpu/gemm.h"
#include "core/cpu/latent_key_value.h"
#include "core/cpu/row_chunks.h"
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

  const int64_t k_size = TransposedSize(sequences.longest, sizes.key_dim);
  const int64_t worker_size =
      k_size + kAttentionBlock * PaddedKeys(sequences.longest);
  T* const scratch = ctx.scratch.Take<T>(ctx.pool.num_threads() * worker_size);
  const int64_t pieces = (sequences.longest + kPiece - 1) / kPiece;
  ctx.pool.ParallelFor(
      sequences.count * sizes.num_kv_heads * pieces,
      [&](int64_t index, int worker) {
        const int64_t piece = index % pieces;
        const int64_t kv_head = index / pieces % sizes.num_kv_heads;
        const int64_t s = index / pieces / sizes.num_kv_heads;
        const int64_t begin = sequences.start[s];
        const int64_t length = sequences.start[s + 1] - begin;
        const int64_t end = std::min(length, (piece + 1) * kPiece);
        if (end <= piece * kPiece) return;
        T* const transposed_k = scratch + worker * worker_size;
        TransposeKeys(end, sizes.key_dim,
                      k + begin * sizes.ld_k + kv_head * sizes.key_dim,
                      sizes.ld_k, transposed_k);
        for (int64_t h = 0; h < sizes.group; ++h) {
          const int64_t head = kv_head * sizes.group + h;
          for (int64_t i = piece * kPiece; i < end; i += kAttentionBlock) {
            const int64_t row = begin + i;
            AttentionBlock<T> block = {sizes};
            block.rows = std::min(kAttentionBlock, end - i);
            block.keys = i + block.rows;
            block.q = q + row * sizes.ld_q + head * sizes.key_dim;
            block.transposed_k = transposed_k;
            block.v = v + begin * sizes.ld_v + kv_head * sizes.value_dim;
            block.o = o + row * sizes.ld_o + head * sizes.value_dim;
            block.lse = lse + row * sizes.num_heads + head;
            block.ld_lse = sizes.num_heads;
            block.score = transposed_k + k_size;
            block.Run();
          }
        }
      });
  return absl::OkStatus();
}

// The gradients of one block of queries of one head.
template <typename T>
struct BackwardBlock {
  const AttentionSizes& sizes;
  int64_t rows = 0, keys = 0;
  const T* dout = nullptr;
  const T* q = nullptr;
  const T* k = nullptr;
  const T* transposed_k = nullptr;
  const T* transposed_v = nullptr;
  const T* lse = nullptr;    // Of stride num_heads.
  const T* delta = nullptr;  // dot(dout, o), of stride num_heads.
  T* dq = nullptr;
  T* dk = nullptr;
  T* dv = nullptr;
  bool add_to_dkv = false;  // Or dk and dv are overwritten.
  T* p = nullptr;           // [rows, PaddedKeys(keys)], scratch
  T* ds = nullptr;          // [rows, PaddedKeys(keys)], scratch

  void Run() const {
    const VectorMath<T>& vec = VectorMath<T>::Get();
    const T scale = static_cast<T>(sizes.scale);
    RowsByKeys(rows, keys, sizes.key_dim, q, sizes.ld_q, transposed_k, p);
    RowsByKeys(rows, keys, sizes.value_dim, dout, sizes.ld_o, transposed_v, ds);
    for (int64_t i = 0; i < rows; ++i) {
      T* const p_row = p + i * PaddedKeys(keys);
      T* const ds_row = ds + i * PaddedKeys(keys);
      const int64_t seen = keys - rows + 1 + i;
      const int64_t first = sizes.FirstSeen(seen), n = seen - first;
      vec.exp(p_row + first, scale, lse[i * sizes.num_heads], 1, n,
              p_row + first);
      vec.softmax_grad(ds_row + first, p_row + first,
                       delta[i * sizes.num_heads], scale, n, ds_row + first);
      for (T* const line : {p_row, ds_row}) {
        std::fill(line, line + first, T{0});
        std::fill(line + seen, line + keys, T{0});
      }
    }
    SumOverKeys(rows, keys, sizes.key_dim, ds, k, sizes.ld_k, dq, sizes.ld_q);
    SumOverRows(sizes.key_dim, ds, q, sizes.ld_q, dk, sizes.ld_k);
    SumOverRows(sizes.value_dim, p, dout, sizes.ld_o, dv, sizes.ld_v);
  }

 private:
  // out [keys, dim] = weight [rows, keys]^T a [rows, dim], or added to it.
  void SumOverRows(int64_t dim, const T* weight, const T* a, int64_t lda,
                   T* out, int64_t ld_out) const {
    for (int64_t first = 0; first < keys; first += kKeyBlock) {
      GemmArgs<T> g;
      g.transpose_a = true;
      g.m = std::min(kKeyBlock, keys - first);
      g.n = dim;
      g.k = rows;
      g.a = weight + first;
      g.lda = PaddedKeys(keys);
      g.b = a;
      g.ldb = lda;
      g.beta = add_to_dkv ? 1 : 0;
      g.c = out + first * ld_out;
      g.ldc = ld_out;
      Gemm(g);
    }
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

  // Row by row, as the memory lies, rather than head by head below.
  const VectorMath<T>& vec = VectorMath<T>::Get();
  T* const delta = ctx.scratch.Take<T>(t * sizes.num_heads);
  ForRowChunks(ctx.pool, t, sizes.ld_o, [&](int64_t first, int64_t last) {
    for (int64_t i = first * sizes.num_heads; i < last * sizes.num_heads; ++i) {
      const int64_t at = i * sizes.value_dim;
      delta[i] = vec.dot(dout + at, o + at, sizes.value_dim);
    }
  });

  const int64_t k_size = TransposedSize(sequences.longest, sizes.key_dim);
  const int64_t v_size = TransposedSize(sequences.longest, sizes.value_dim);
  const int64_t block_size = kAttentionBlock * PaddedKeys(sequences.longest);
  const int64_t worker_size = k_size + v_size + 2 * block_size;
  T* const scratch = ctx.scratch.Take<T>(ctx.pool.num_threads() * worker_size);
  ctx.pool.ParallelFor(sequences.count * sizes.num_kv_heads, [&](int64_t index,
                                                                 int worker) {
    const int64_t kv_head = index % sizes.num_kv_heads;
    const int64_t s = index / sizes.num_kv_heads;
    const int64_t begin = sequences.start[s];
    const int64_t length = sequences.start[s + 1] - begin;
    const int64_t k_at = begin * sizes.ld_k + kv_head * sizes.key_dim;
    const int64_t v_at = begin * sizes.ld_v + kv_head * sizes.value_dim;
    T* const transposed_k = scratch + worker * worker_size;
    T* const transposed_v = transposed_k + k_size;
    TransposeKeys(length, sizes.key_dim, k + k_at, sizes.ld_k, transposed_k);
    TransposeKeys(length, sizes.value_dim, v + v_at, sizes.ld_v, transposed_v);
    const int64_t num_blocks = (length + kAttentionBlock - 1) / kAttentionBlock;
    for (int64_t i = 0; i < sizes.group * num_blocks; ++i) {
      const int64_t head = kv_head * sizes.group + i / num_blocks;
      const int64_t first = (num_blocks - 1 - i % num_blocks) * kAttentionBlock;
      const int64_t row = begin + first;
      BackwardBlock<T> block = {sizes};
      block.rows = std::min(kAttentionBlock, length - first);
      block.keys = first + block.rows;
      block.dout = dout + row * sizes.ld_o + head * sizes.value_dim;
      block.q = q + row * sizes.ld_q + head * sizes.key_dim;
      block.k = k + k_at;
      block.transposed_k = transposed_k;
      block.transposed_v = transposed_v;
      block.lse = lse + row * sizes.num_heads + head;
      block.delta = delta + row * sizes.num_heads + head;
      block.dq = dq + row * sizes.ld_q + head * sizes.key_dim;
      block.dk = dk + k_at;
      block.dv = dv + v_at;
      block.add_to_dkv = i > 0;
      block.p = transposed_v + v_size;
      block.ds = block.p + block_size;
      block.Run();
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
  RegisterAbsorbedAttentionKernels(kernels);
}

}  // namespace strata
