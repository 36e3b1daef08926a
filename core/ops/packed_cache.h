// Attention over a cache whose keys and values are kept in fewer bits
// (core/quant/cache_format.h): what CacheWrite and the four operators of cached
// attention are with such a cache. core/passes/pack_caches.h makes them.
//
// The same numbers as those operators over the keys and values that the cache
// stands for, but for probabilities in powers of two (core/quant/log_levels.h),
// where the options ask for these.

#ifndef CORE_OPS_PACKED_CACHE_H_
#define CORE_OPS_PACKED_CACHE_H_

#include <cstdint>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "core/graph/attrs.h"
#include "core/graph/builder.h"
#include "core/graph/op_def.h"
#include "core/ops/attention.h"
#include "core/ops/paged_attention.h"
#include "core/quant/cache_format.h"
#include "core/tensor/dtype.h"

namespace strata {

// (cache U8 [slots, bytes], rows F32 [t, n], row I32 [t]) in place: rounds rows
// of `num_heads` heads to the slots.
extern const OpDef kPackedCacheWrite;

//   q [t, heads * dk] F32
//   k_cache [slots, bytes] U8, of kv_heads heads of dk
//   v_cache [slots, bytes] U8, of kv_heads heads of dv, or absent: values are
//                          the first dv columns of the keys
//   where, [t] I32: with block_table [rows, max_blocks] its row of that, else
//                   the cache's row of the sequence's first token
//   position [t] I32       -> o [t, heads * dv] F32
extern const OpDef kPackedAttention;
enum PackedAttentionInput {
  kPackedQ,
  kPackedK,
  kPackedV,
  kPackedTable,
  kPackedWhere,
  kPackedPosition,
  kNumPackedInputs,
};

// As the attributes of a node say.
CacheOptions CacheOptionsOf(const Attrs& attrs);

// Of an operator that fuses a write: that `input` is a cache for rows of
// `width` columns in `num_heads` heads, which is F32 or F64 as they are, or
// packed as the operator's attributes say.
absl::Status WantStored(const OpView& op, int input, absl::string_view name,
                        DType rows, int64_t num_heads, int64_t width);

void PackedCacheWrite(GraphBuilder& b, ValueId cache, ValueId rows, ValueId row,
                      int64_t num_heads, const CacheOptions& cache_options);
Attrs PackedCacheWriteAttrs(int64_t num_heads, const CacheOptions& cache);

struct PackedAttentionOptions {
  AttentionOptions heads;
  int64_t value_dim = 0;
  int64_t block_size = 16;  // Of a cache in blocks.
  CacheOptions cache;
};
ValueId PackedAttention(GraphBuilder& b, ValueId q, ValueId k_cache,
                        ValueId v_cache, ValueId block_table, ValueId where,
                        ValueId position,
                        const PackedAttentionOptions& options);
Attrs PackedAttentionAttrs(const PackedAttentionOptions& options);

}  // namespace strata

#endif  // CORE_OPS_PACKED_CACHE_H_
