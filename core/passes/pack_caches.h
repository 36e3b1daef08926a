// A KV cache in fewer bits: F32 in the graph that a model builder emits, packed
// rows (core/quant/cache_format.h) after this pass.
//
//   cache: state F32[slots, n]    CacheWrite, PagedAttention, CachedAttention
//        --PackCaches(graph, {INT8})-->
//   cache: state U8[slots, bytes] PackedCacheWrite, PackedAttention
//
// and over latents likewise. To run before fusion, whose operators take packed
// caches.

#ifndef CORE_PASSES_PACK_CACHES_H_
#define CORE_PASSES_PACK_CACHES_H_

#include "absl/status/statusor.h"
#include "core/graph/graph.h"
#include "core/quant/cache_format.h"

namespace strata {

// `graph` with every cache, which is what CacheWrite writes to, in
// `options.format`; as it is where that is F32.
//
// Returns INVALID_ARGUMENT if the options do not go together, if a cache is not
// F32, or if an operator reads one that is not attention over it.
absl::StatusOr<Graph> PackCaches(const Graph& graph,
                                 const CacheOptions& options);

}  // namespace strata

#endif  // CORE_PASSES_PACK_CACHES_H_
