// What rounding the numbers of a group costs, in the widest vectors that the
// processor has.

#ifndef CORE_QUANT_ROUNDING_ERRORS_H_
#define CORE_QUANT_ROUNDING_ERRORS_H_

#include <cstdint>

namespace strata {

// out [n] = weight (w - w')^2, w' being w by its CodeOf (quantized_matrix.h),
// which `scale`, not 0, `zero` and `max_code` say.
void RoundingErrors(const float* w, const float* weight, int64_t n, float scale,
                    int zero, int max_code, float* out);

}  // namespace strata

#endif  // CORE_QUANT_ROUNDING_ERRORS_H_
