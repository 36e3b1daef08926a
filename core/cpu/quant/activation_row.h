// A row of QuantizedRows, or the first of several, as the kernels of row by row
// products read it.

#ifndef CORE_CPU_QUANT_ACTIVATION_ROW_H_
#define CORE_CPU_QUANT_ACTIVATION_ROW_H_

#include <cstdint>

#include "core/cpu/quant/quant_product.h"

namespace strata {

struct ActivationRow {
  const int8_t* high;
  const int8_t* low;
  const float* scale;
  const int32_t* minus_sum;
  int64_t blocks;  // Of a row.

  ActivationRow(const QuantizedRows& x, int64_t row, bool by_halves)
      : high((by_halves ? x.high_by_halves : x.high) + row * x.padded),
        low((by_halves ? x.low_by_halves : x.low) + row * x.padded),
        blocks(static_cast<int64_t>(static_cast<uint64_t>(x.padded) /
                                    kActivationBlock)) {
    scale = x.scale + row * blocks;
    minus_sum = x.minus_sum + row * blocks;
  }
};

}  // namespace strata

#endif  // CORE_CPU_QUANT_ACTIVATION_ROW_H_
