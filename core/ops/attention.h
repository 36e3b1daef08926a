// Causal attention over packed sequences, grouped-query, and over a KV cache.
//
//   q [t, heads * dk]   k [t, kv_heads * dk]   v [t, kv_heads * dv]
//     |
//     |  softmax(scale * q k^T) v, each token over its own sequence up to
//     itself
//     v
//   o [t, heads * dv]   lse [t, heads]  log of the softmax's denominator
//
// Head h reads KV head h / (heads / kv_heads). Sequences are data, not shape:
// seq_start [n + 1] I32 holds the first row of each and, last, the row count.

#ifndef CORE_OPS_ATTENTION_H_
#define CORE_OPS_ATTENTION_H_

#include <cstdint>

#include "core/graph/builder.h"
#include "core/graph/op_def.h"

namespace strata {

extern const OpDef kAttention;      // (q, k, v, seq_start) -> o, lse
extern const OpDef kAttentionGrad;  // (do, q, k, v, o, lse, seq_start)
                                    //   -> dq, dk, dv
extern const OpDef kCacheWrite;     // (cache, rows, row) in place, no output
extern const OpDef kCopyCacheRows;  // (cache, from, to) in place, no output
extern const OpDef kCachedAttention;
extern const OpDef kLatentKeyValue;      // (kv, k_rope) -> k, v
extern const OpDef kLatentKeyValueGrad;  // (dk, dv) -> dkv, dk_rope

struct AttentionOptions {
  int64_t num_heads = 1;
  int64_t num_kv_heads = 1;
  double scale = 1;
  int64_t window = 0;  // A token sees so many, itself included; 0: all.
};

ValueId Attention(GraphBuilder& b, ValueId q, ValueId k, ValueId v,
                  ValueId seq_start, const AttentionOptions& options);

// Writes rows [t, n] into cache [slots, n] (state) at slots row [t] I32.
void CacheWrite(GraphBuilder& b, ValueId cache, ValueId rows, ValueId row);

// Copies rows `from` of a cache [slots, n] of any type to rows `to`, both [t]
// I32; no row may be in both.
void CopyCacheRows(GraphBuilder& b, ValueId cache, ValueId from, ValueId to);

// Token i attends to cache rows first_row[i] .. first_row[i] + position[i],
// its own included, which CacheWrite stored before.
//   q [t, heads * dk], k_cache [slots, kv_heads * dk],
//   v_cache [slots, kv_heads * dv], first_row [t] I32, position [t] I32
//   -> o [t, heads * dv]
ValueId CachedAttention(GraphBuilder& b, ValueId q, ValueId k_cache,
                        ValueId v_cache, ValueId first_row, ValueId position,
                        const AttentionOptions& options);

// Keys and values of multi-head latent attention in expanded form: per head,
// kv holds [nope | value] columns; the key is [nope | shared rotary part].
//   kv [t, heads * (nope + value)], k_rope [t, rope]
//   -> k [t, heads * (nope + rope)], v [t, heads * value]
struct LatentKv {
  ValueId k = kNone;
  ValueId v = kNone;
};
LatentKv LatentKeyValue(GraphBuilder& b, ValueId kv, ValueId k_rope,
                        int64_t num_heads, int64_t nope, int64_t value);

}  // namespace strata

#endif  // CORE_OPS_ATTENTION_H_
