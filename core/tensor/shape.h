// Shapes: the extents of a dense row-major array.

#ifndef CORE_TENSOR_SHAPE_H_
#define CORE_TENSOR_SHAPE_H_

#include <cstdint>
#include <string>

#include "absl/container/inlined_vector.h"

namespace strata {

using Shape = absl::InlinedVector<int64_t, 4>;

// The product of the extents; 1 for a scalar.
int64_t NumElements(const Shape& shape);

// "[4, 128]"; "[]" for a scalar.
std::string ToString(const Shape& shape);

}  // namespace strata

#endif  // CORE_TENSOR_SHAPE_H_
