// A view of a dense row-major array that somebody else owns.

#ifndef CORE_TENSOR_TENSOR_H_
#define CORE_TENSOR_TENSOR_H_

#include <cstdint>

#include "absl/types/span.h"
#include "core/base/check.h"
#include "core/tensor/dtype.h"
#include "core/tensor/shape.h"

namespace strata {

// As cheap as a pointer to pass about; the memory must outlive it.
struct TensorView {
  DType dtype = DType::kF32;
  Shape shape;
  void* data = nullptr;

  int64_t num_elements() const { return NumElements(shape); }
  int64_t num_bytes() const { return num_elements() * SizeOf(dtype); }
  int rank() const { return static_cast<int>(shape.size()); }
  int64_t dim(int axis) const { return shape[axis]; }

  // The elements, which must be of type T.
  template <typename T>
  T* as() const {
    CHECK(dtype == DTypeOf<T>()) << "tensor is " << Name(dtype);
    return static_cast<T*>(data);
  }
  template <typename T>
  absl::Span<T> span() const {
    return absl::MakeSpan(as<T>(), num_elements());
  }
};

}  // namespace strata

#endif  // CORE_TENSOR_TENSOR_H_
