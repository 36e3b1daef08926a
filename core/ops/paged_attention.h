// Attention over a cache in blocks: the keys of a sequence lie where its row of
// a table says, so sequences grow without moving and may share what they have
// in common.
//
//   block_table [rows, max_blocks] I32     cache [blocks * block_size, width]
//     sequence 0:  7  2  9                   token i of sequence s is row
//     sequence 1:  7  4                      table[s][i / size] * size + i %
//     size
//
// A token i attends to the tokens 0 .. position[i] of sequence[i] (with a
// window, to the last of them), its own included, which CacheWrite stored
// before. q, o, heads and scale are those of core/ops/attention.h and
// core/ops/absorbed_attention.h.

#ifndef CORE_OPS_PAGED_ATTENTION_H_
#define CORE_OPS_PAGED_ATTENTION_H_

#include <cstdint>

#include "core/graph/builder.h"
#include "core/graph/op_def.h"
#include "core/ops/absorbed_attention.h"
#include "core/ops/attention.h"

namespace strata {

extern const OpDef kPagedAttention;
extern const OpDef kPagedLatentAttention;

struct Pages {
  ValueId block_table = kNone;  // [rows, max_blocks] I32
  ValueId sequence = kNone;     // [t] I32, a row of block_table
  int64_t block_size = 16;      // Tokens.
};

//   q [t, heads * dk], k_cache [slots, kv_heads * dk],
//   v_cache [slots, kv_heads * dv], position [t] I32 -> o [t, heads * dv]
ValueId PagedAttention(GraphBuilder& b, ValueId q, ValueId k_cache,
                       ValueId v_cache, const Pages& pages, ValueId position,
                       const AttentionOptions& options);

//   q [t, heads * (rank + rope)], cache [slots, rank + rope]
//   -> o [t, heads * rank]
ValueId PagedLatentAttention(GraphBuilder& b, ValueId q, ValueId cache,
                             const Pages& pages, ValueId position,
                             const CachedLatentOptions& options);

}  // namespace strata

#endif  // CORE_OPS_PAGED_ATTENTION_H_
