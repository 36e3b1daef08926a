// How ranks' data become one: element by element, into that of the first.

#ifndef CORE_PARALLEL_COMBINE_H_
#define CORE_PARALLEL_COMBINE_H_

#include <cstdint>

#include "core/parallel/communicator.h"
#include "core/tensor/dtype.h"

namespace strata {

// to = op(to, from), of `n` elements, F32, F64 or I32.
void Combine(const char* from, int64_t n, DType dtype, ReduceOp op, char* to);

}  // namespace strata

#endif  // CORE_PARALLEL_COMBINE_H_
