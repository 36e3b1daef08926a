// What attention does to rows of a cache in fewer bits
// (core/quant/cache_format.h), in the widest vectors that the processor has:
// widen them, or add up their integers by level (core/quant/log_levels.h).
//
// Both are exact, so results are the same on every machine.

#ifndef CORE_CPU_ATTEND_CACHE_ROWS_H_
#define CORE_CPU_ATTEND_CACHE_ROWS_H_

#include <cstdint>

#include "core/quant/cache_format.h"

namespace strata {

// Of integers of up to 127 so many fit into 16 bits.
inline constexpr int64_t kMaxShortSums = 256;

struct CacheRows {
  // The table for this processor.
  static const CacheRows& Get();

  // The first `groups` groups of `rows` rows, `stride` bytes apart, in numbers:
  // out [rows, 32 * groups].
  void (*widen)(CacheFormat format, const uint8_t* row, int64_t stride,
                int64_t rows, int64_t groups, float* out);

  // sum[level[i]] += the codes of row i's group, which are 32 columns of
  // integers; not of rows whose level is LogLevels::kDropped. At most
  // kMaxShortSums rows may be added between flushes.
  void (*add_codes)(CacheFormat format, const uint8_t* group, int64_t stride,
                    int64_t rows, const uint8_t* level, int16_t* sum);

  // total += sum, sum = 0, of n elements; n in multiples of 32.
  void (*flush)(int64_t n, int16_t* sum, int32_t* total);
};

}  // namespace strata

#endif  // CORE_CPU_ATTEND_CACHE_ROWS_H_
