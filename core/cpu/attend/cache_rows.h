// What attention does to rows of a cache in fewer bits
// (core/quant/cache_format.h), in the widest vectors that the processor has:
// widen them, or add up their integers by level (core/quant/log_levels.h).
//
// Both are exact, so results are the same on every machine.

#ifndef CORE_CPU_ATTEND_CACHE_ROWS_H_
#define CORE_CPU_ATTEND_CACHE_ROWS_H_

#include <cstdint>

#include "core/quant/cache_format.h"
#include "core/quant/log_levels.h"

namespace strata {

// Of integers of up to 127 so many fit into 16 bits.
inline constexpr int64_t kMaxShortSums = 256;

// Adds the integers of rows to the sums of their levels.
//
//   sum[l] += the codes of row i's group, 32 columns, where
//   l = min(level[i] + steps * (top - exponent[i]), num_levels)
//
// A scale of half the size is an octave down; what falls out at the end goes to
// a sum of its own that nobody reads, which costs less than a branch. At most
// kMaxShortSums rows may be added between flushes.
struct LevelSums {
  CacheFormat format = CacheFormat::kInt8;
  const uint8_t* group = nullptr;  // Of the first row.
  int64_t stride = 0;              // Bytes from row to row.
  int64_t rows = 0;
  const uint8_t* level = nullptr;     // [rows]
  const uint8_t* exponent = nullptr;  // [rows], BF16's, of the group's scale.
  int top = 0;                        // At least each exponent.
  int steps = 1;                      // To an octave.
  int num_levels = 16;
  int16_t* sum = nullptr;  // [num_levels + 1, 32]
};

struct CacheRows {
  // The table for this processor.
  static const CacheRows& Get();

  // The first `groups` groups of `rows` rows, `stride` bytes apart, in numbers:
  // out [rows, 32 * groups].
  void (*widen)(CacheFormat format, const uint8_t* row, int64_t stride,
                int64_t rows, int64_t groups, float* out);

  // level[i] = levels.CodeOf(p[i] / largest), largest > 0. In vectors: both
  // arrays must have room for n filled up to a multiple of 16.
  void (*find_levels)(const LogLevels& levels, const float* p, float largest,
                      int64_t n, uint8_t* level);

  void (*add_codes)(const LevelSums& args);

  // total += sum, sum = 0, of n elements; n in multiples of 32.
  void (*flush)(int64_t n, int16_t* sum, int32_t* total);
};

}  // namespace strata

#endif  // CORE_CPU_ATTEND_CACHE_ROWS_H_
