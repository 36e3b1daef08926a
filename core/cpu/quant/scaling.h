// What scales and zeros the packed rows of a product have, as its kernels tell
// them apart.

#ifndef CORE_CPU_QUANT_SCALING_H_
#define CORE_CPU_QUANT_SCALING_H_

#include <cstdint>

#include "core/quant/format.h"

namespace strata {

enum class Scaling {
  kZeros,   // Asymmetric, groups of any size.
  kGroups,  // Symmetric, groups of any size.
  kBlocks,  // Symmetric, a scale each 32 columns, of which there are whole 64s.
};

inline Scaling ScalingOf(const QuantFormat& format, int64_t columns) {
  if (!format.symmetric) return Scaling::kZeros;
  return format.group == 32 && columns % 64 == 0 ? Scaling::kBlocks
                                                 : Scaling::kGroups;
}

// A group is 2^GroupShift blocks of 32 columns; where a row has one scale, more
// than a row can have.
inline int GroupShift(const QuantFormat& format) {
  return format.group == 0     ? 62
         : format.group == 128 ? 2
         : format.group == 64  ? 1
                               : 0;
}

}  // namespace strata

#endif  // CORE_CPU_QUANT_SCALING_H_
