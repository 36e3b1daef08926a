// Flags of how keys and values lie in memory, and of what attends to them.

#ifndef TOOLS_STRATA_CACHE_FLAGS_H_
#define TOOLS_STRATA_CACHE_FLAGS_H_

#include "core/quant/cache_format.h"
#include "tools/strata/option_parser.h"

namespace strata {

// --cache and --attention-bits; whether they go together is for
// CheckCacheOptions to say.
void AddCache(OptionParser& app, CacheOptions& cache);

}  // namespace strata

#endif  // TOOLS_STRATA_CACHE_FLAGS_H_
