// Rows of a matrix whose scales and codes are improved in turns, as long as the
// error that calibrate.h has falls.

#ifndef CORE_QUANT_LEARNED_ROWS_H_
#define CORE_QUANT_LEARNED_ROWS_H_

#include <cstdint>

#include "core/quant/quantized_matrix.h"
#include "core/quant/row_calibration.h"

namespace strata {

// Rows [first, first + count) of `m`, which have codes and scales; w is the
// first of them.
void LearnRows(const float* w, const Curvature& curvature, int64_t first,
               int64_t count, QuantizedMatrix& m);

}  // namespace strata

#endif  // CORE_QUANT_LEARNED_ROWS_H_
