// Attention of one block of queries of one head to all the keys that they may
// see: two dense products with an exact softmax of whole rows between them.
//
//             keys 0 .. last query of the block
//           +---------------------------+
//   block   | scale * q k^T       . 0 0 |  softmax by row over the columns
//   of      |                       . 0 |  before the zeros
//   queries |                         . |
//           +---------------------------+
//
// Shared by attention over sequences and attention over a cache, so that both
// round alike.

#ifndef CORE_CPU_ATTENTION_BLOCK_H_
#define CORE_CPU_ATTENTION_BLOCK_H_

#include <algorithm>
#include <cstdint>

#include "core/cpu/gemm.h"
#include "core/cpu/vector_math.h"
#include "core/graph/attrs.h"
#include "core/tensor/tensor.h"

namespace strata {

// Queries in a block. More waste products above the diagonal, fewer waste the
// speed of Gemm.
inline constexpr int64_t kAttentionBlock = 32;

// The extents of a node, and the distances between rows.
struct AttentionSizes {
  int64_t num_heads, num_kv_heads;
  int64_t group;                   // Query heads to a KV head.
  int64_t key_dim, value_dim;      // Columns of a head.
  int64_t ld_q, ld_k, ld_v, ld_o;  // Columns of all heads.
  double scale;
  int64_t window;  // 0: none.

  AttentionSizes(const Attrs& attrs, const TensorView& q, const TensorView& v) {
    num_heads = attrs.Int("num_heads");
    num_kv_heads = attrs.Int("num_kv_heads");
    group = num_heads / num_kv_heads;
    ld_q = q.dim(1);
    key_dim = ld_q / num_heads;
    ld_k = num_kv_heads * key_dim;
    ld_v = v.dim(1);
    value_dim = ld_v / num_kv_heads;
    ld_o = num_heads * value_dim;
    scale = attrs.Float("scale");
    window = attrs.Int("window");
  }

  // The first key that a token sees which is the last of `keys`.
  int64_t FirstSeen(int64_t keys) const {
    return window > 0 ? std::max<int64_t>(0, keys - window) : 0;
  }
};

// A row of scores: padded to a whole cache line, and to a number of them that
// keeps rows from falling on each other in the cache when keys are a power
// of 2.
inline int64_t PaddedKeys(int64_t keys) { return (keys + 15) / 16 * 16 + 16; }

// Products over keys go in blocks of so many. With 64 queries and heads of 32
// to 64 they stay small enough for OpenBLAS to work without packing them.
inline constexpr int64_t kKeyBlock = 128;

// Keys (or values) of one head transposed, in blocks: [blocks, dim, kKeyBlock].
inline int64_t TransposedSize(int64_t keys, int64_t dim) {
  return (keys + kKeyBlock - 1) / kKeyBlock * kKeyBlock * dim;
}

template <typename T>
void TransposeKeys(int64_t keys, int64_t dim, const T* b, int64_t ldb, T* out) {
  // Lines of `out` are written whole, from rows of `b` that stay in cache.
  constexpr int64_t kStrip = 16;
  for (int64_t first = 0; first < keys; first += kStrip) {
    const int64_t width = std::min(kStrip, keys - first);
    const T* const from = b + first * ldb;
    T* const to = out + first / kKeyBlock * kKeyBlock * dim + first % kKeyBlock;
    for (int64_t j = 0; j < dim; ++j) {
      T* const line = to + j * kKeyBlock;
      for (int64_t i = 0; i < width; ++i) line[i] = from[i * ldb + j];
    }
  }
}

// out [rows, keys] = a [rows, dim] b [keys, dim]^T, b given transposed; rows of
// `out` are PaddedKeys(keys) apart.
template <typename T>
void RowsByKeys(int64_t rows, int64_t keys, int64_t dim, const T* a,
                int64_t lda, const T* transposed_b, T* out) {
  for (int64_t first = 0; first < keys; first += kKeyBlock) {
    GemmArgs<T> g;
    g.m = rows;
    g.n = std::min(kKeyBlock, keys - first);
    g.k = dim;
    g.a = a;
    g.lda = lda;
    g.b = transposed_b + first * dim;
    g.ldb = kKeyBlock;
    g.c = out + first;
    g.ldc = PaddedKeys(keys);
    Gemm(g);
  }
}

// out [rows, dim] = weight [rows, keys] b [keys, dim]; rows of `weight` are
// PaddedKeys(keys) apart.
template <typename T>
void SumOverKeys(int64_t rows, int64_t keys, int64_t dim, const T* weight,
                 const T* b, int64_t ldb, T* out, int64_t ld_out) {
  for (int64_t first = 0; first < keys; first += kKeyBlock) {
    GemmArgs<T> g;
    g.m = rows;
    g.n = dim;
    g.k = std::min(kKeyBlock, keys - first);
    g.a = weight + first;
    g.lda = PaddedKeys(keys);
    g.b = b + first * ldb;
    g.ldb = ldb;
    g.beta = first == 0 ? 0 : 1;
    g.c = out;
    g.ldc = ld_out;
    Gemm(g);
  }
}

// o of `rows` queries of one head, the first of which sees `keys - rows + 1`
// keys and the last all `keys`. `score` [rows, PaddedKeys(keys)] is scratch;
// `lse`, of stride `ld_lse`, may be null.
template <typename T>
struct AttentionBlock {
  const AttentionSizes& sizes;
  int64_t rows = 0, keys = 0;
  const T* q = nullptr;
  const T* transposed_k = nullptr;
  const T* v = nullptr;
  T* o = nullptr;
  T* lse = nullptr;
  int64_t ld_lse = 0;
  T* score = nullptr;

  void Run() const {
    const VectorMath<T>& vec = VectorMath<T>::Get();
    RowsByKeys(rows, keys, sizes.key_dim, q, sizes.ld_q, transposed_k, score);
    for (int64_t i = 0; i < rows; ++i) {
      T* const row = score + i * PaddedKeys(keys);
      const int64_t seen = keys - rows + 1 + i;
      const int64_t first = sizes.FirstSeen(seen);
      const T sum = vec.softmax(row + first, static_cast<T>(sizes.scale),
                                seen - first, row + first);
      std::fill(row, row + first, T{0});
      std::fill(row + seen, row + keys, T{0});
      if (lse != nullptr) lse[i * ld_lse] = sum;
    }
    SumOverKeys(rows, keys, sizes.value_dim, score, v, sizes.ld_v, o,
                sizes.ld_o);
  }
};

}  // namespace strata

#endif  // CORE_CPU_ATTENTION_BLOCK_H_
