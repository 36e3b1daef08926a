// Multi-head latent attention in absorbed form (DeepSeek-V2, arXiv:2405.04434,
// 2.1.2): the cache holds a token's latent and the rotary key that all heads
// share, and neither keys nor values are ever made.
//
//   kv_b [heads * (nope + value), rank]: of each head W_K [nope, rank], then
//   W_V [value, rank]
//
//   q  [t, heads * (nope + rope)]      cache [slots, rank + rope]
//     |  LatentQuery: q_nope W_K         |
//     v                                  |
//   q' [t, heads * (rank + rope)] -------+--> CachedLatentAttention
//                                               |
//   o  [t, heads * value] <-- LatentOutput -- o' [t, heads * rank]
//                             o' W_V^T
//
// As q . (W_K c) = (q W_K) . c and sum p (W_V c) = W_V (sum p c), the result is
// that of the expanded form (LatentKeyValue, Attention) up to rounding.

#ifndef CORE_OPS_ABSORBED_ATTENTION_H_
#define CORE_OPS_ABSORBED_ATTENTION_H_

#include <cstdint>

#include "core/graph/builder.h"
#include "core/graph/op_def.h"

namespace strata {

extern const OpDef kLatentQuery;
extern const OpDef kCachedLatentAttention;
extern const OpDef kLatentOutput;

struct LatentHeads {
  int64_t num_heads = 1;
  int64_t nope = 0;
  int64_t rope = 0;
  int64_t value = 0;
};

ValueId LatentQuery(GraphBuilder& b, ValueId q, ValueId kv_b,
                    const LatentHeads& heads);

// Token i attends to cache rows first_row[i] .. first_row[i] + position[i], its
// own included, which CacheWrite stored before; to the last `window` of them if
// that is not 0.
struct CachedLatentOptions {
  int64_t num_heads = 1;
  int64_t rank = 0;
  double scale = 1;
  int64_t window = 0;
};
ValueId CachedLatentAttention(GraphBuilder& b, ValueId q, ValueId cache,
                              ValueId first_row, ValueId position,
                              const CachedLatentOptions& options);

ValueId LatentOutput(GraphBuilder& b, ValueId o, ValueId kv_b,
                     const LatentHeads& heads);

}  // namespace strata

#endif  // CORE_OPS_ABSORBED_ATTENTION_H_
