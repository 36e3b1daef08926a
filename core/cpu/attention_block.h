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
inline constexpr int64_t kAttentionBlock = 64;

// The extents of a node, and the distances between rows.
struct AttentionSizes {
  int64_t num_heads, num_kv_heads;
  int64_t group;                   // Query heads to a KV head.
  int64_t key_dim, value_dim;      // Columns of a head.
  int64_t ld_q, ld_k, ld_v, ld_o;  // Columns of all heads.
  double scale;

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
  }
};

// A row of scores, padded so that each starts at a cache line.
inline int64_t PaddedKeys(int64_t keys) { return (keys + 15) / 16 * 16; }

// o of `rows` queries of one head, the first of which sees `keys - rows + 1`
// keys and the last all `keys`. `score` [rows, PaddedKeys(keys)] is scratch;
// `lse`, of stride `ld_lse`, may be null.
template <typename T>
struct AttentionBlock {
  const AttentionSizes& sizes;
  int64_t rows, keys;
  const T* q;
  const T* k;
  const T* v;
  T* o;
  T* lse;
  int64_t ld_lse;
  T* score;

  void Run() const {
    const VectorMath<T>& vec = VectorMath<T>::Get();
    const int64_t ld_score = PaddedKeys(keys);
    GemmArgs<T> g;
    g.transpose_b = true;
    g.m = rows;
    g.n = keys;
    g.k = sizes.key_dim;
    g.a = q;
    g.lda = sizes.ld_q;
    g.b = k;
    g.ldb = sizes.ld_k;
    g.c = score;
    g.ldc = ld_score;
    Gemm(g);
    for (int64_t i = 0; i < rows; ++i) {
      T* const row = score + i * ld_score;
      const int64_t seen = keys - rows + 1 + i;
      const T sum = vec.softmax(row, static_cast<T>(sizes.scale), seen, row);
      std::fill(row + seen, row + keys, T{0});
      if (lse != nullptr) lse[i * ld_lse] = sum;
    }
    GemmArgs<T> h;
    h.m = rows;
    h.n = sizes.value_dim;
    h.k = keys;
    h.a = score;
    h.lda = ld_score;
    h.b = v;
    h.ldb = sizes.ld_v;
    h.c = o;
    h.ldc = sizes.ld_o;
    Gemm(h);
  }
};

}  // namespace strata

#endif  // CORE_CPU_ATTENTION_BLOCK_H_
