// Attention within sequences, each token to all of its own: what an encoder
// does, as of image patches.
//
//   q [t, heads * dk]   k [t, kv_heads * dk]   v [t, kv_heads * dv]
//     |
//     |  softmax(scale * q k^T) v over the token's whole sequence
//     v
//   o [t, heads * dv]
//
// Sequences and heads are those of core/ops/attention.h, of which this is the
// sibling without a causal order. It has no gradient yet.

#ifndef CORE_OPS_FULL_ATTENTION_H_
#define CORE_OPS_FULL_ATTENTION_H_

#include <cstdint>

#include "core/graph/builder.h"
#include "core/graph/op_def.h"

namespace strata {

extern const OpDef kFullAttention;  // (q, k, v, seq_start) -> o

struct FullAttentionOptions {
  int64_t num_heads = 1;
  int64_t num_kv_heads = 1;
  double scale = 1;
};

// seq_start [n + 1] I32: the first row of each sequence and, last, t.
ValueId FullAttention(GraphBuilder& b, ValueId q, ValueId k, ValueId v,
                      ValueId seq_start, const FullAttentionOptions& options);

}  // namespace strata

#endif  // CORE_OPS_FULL_ATTENTION_H_
