// The input side of latent attention in absorbed form
// (core/ops/absorbed_attention.h) when its operators are fused
// (docs/fusion.md):
//
//   x --LatentQkv--> q' [t, heads * (rank + rope)]
//                    the token's latent and rotary key into the cache
//
// norm, projections down and up, norms of what lies between, rotary positions,
// cache write and LatentQuery. Defined by these; it has no gradient.

#ifndef CORE_OPS_FUSED_LATENT_H_
#define CORE_OPS_FUSED_LATENT_H_

#include <cstdint>

#include "core/graph/attrs.h"
#include "core/graph/op_def.h"
#include "core/quant/cache_format.h"

namespace strata {

extern const OpDef kLatentQkv;
enum LatentQkvInput {
  kLatentX,       // [t, d]
  kLatentGain,    // [d]
  kLatentWqDown,  // [q_rank, d], or the next three absent: queries from x
  kLatentBqDown,  // [q_rank] or absent
  kLatentQGain,   // [q_rank]
  kLatentWq,      // [heads * (nope + rope), q_rank or d]
  kLatentWkv,     // [rank + rope, d]
  kLatentBkv,     // [rank + rope] or absent
  kLatentKvGain,  // [rank]
  kLatentKvB,     // [heads * (nope + value), rank]
  kLatentCos,     // Of RopeTable.
  kLatentSin,
  // [slots, rank + rope], updated; or U8, packed rows of a head of so many
  // columns (core/ops/packed_cache.h).
  kLatentCache,
  kLatentRow,  // [t] I32, the slots
};
struct LatentQkvOptions {
  int64_t num_heads = 1;
  int64_t nope = 0, rope = 0, value = 0;
  double eps = 0, q_eps = 1, kv_eps = 1;
  bool interleaved = false;
  CacheOptions cache;  // Of a packed cache: what PackedCacheWrite stores.
};
Attrs LatentQkvAttrs(const LatentQkvOptions& options);
// Outputs beyond q': tiles of what lies between.

}  // namespace strata

#endif  // CORE_OPS_FUSED_LATENT_H_
