#include "core/parallel/combine.h"

#include <algorithm>
#include <cstdint>

#include "core/parallel/communicator.h"
#include "core/tensor/dtype.h"

namespace strata {
namespace {

template <typename T>
void Combine(const T* from, int64_t n, ReduceOp op, T* to) {
  if (op == ReduceOp::kMax) {
    for (int64_t i = 0; i < n; ++i) to[i] = std::max(to[i], from[i]);
  } else {
    for (int64_t i = 0; i < n; ++i) to[i] += from[i];
  }
}

}  // namespace

void Combine(const char* from, int64_t n, DType dtype, ReduceOp op, char* to) {
  switch (dtype) {
    case DType::kF32:
      return Combine(reinterpret_cast<const float*>(from), n, op,
                     reinterpret_cast<float*>(to));
    case DType::kF64:
      return Combine(reinterpret_cast<const double*>(from), n, op,
                     reinterpret_cast<double*>(to));
    default:
      return Combine(reinterpret_cast<const int32_t*>(from), n, op,
                     reinterpret_cast<int32_t*>(to));
  }
}

}  // namespace strata
