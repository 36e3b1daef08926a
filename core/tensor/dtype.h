// Element types: the numbers that a tensor can hold.

#ifndef CORE_TENSOR_DTYPE_H_
#define CORE_TENSOR_DTYPE_H_

#include <cstdint>

#include "absl/strings/string_view.h"

namespace strata {

enum class DType : uint8_t {
  kF32,
  kF64,
  kF16,
  kBF16,
  kF8E4M3,
  kF8E5M2,
  kI64,
  kI32,
  kI16,
  kI8,
  kU64,
  kU32,
  kU16,
  kU8,
  kBool,
};

// Bytes of one element.
int SizeOf(DType dtype);

// "F32", "BF16", "I64", ...: the names that safetensors files use.
absl::string_view Name(DType dtype);

// F64 down to F8.
bool IsFloat(DType dtype);

// The DType of a C++ type: DTypeOf<float>() is kF32.
template <typename T>
constexpr DType DTypeOf();
template <>
constexpr DType DTypeOf<float>() {
  return DType::kF32;
}
template <>
constexpr DType DTypeOf<double>() {
  return DType::kF64;
}
template <>
constexpr DType DTypeOf<int64_t>() {
  return DType::kI64;
}
template <>
constexpr DType DTypeOf<int32_t>() {
  return DType::kI32;
}
template <>
constexpr DType DTypeOf<uint8_t>() {
  return DType::kU8;
}

}  // namespace strata

#endif  // CORE_TENSOR_DTYPE_H_
