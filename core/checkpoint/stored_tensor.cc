#include "core/checkpoint/stored_tensor.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "core/base/check.h"
#include "core/base/status_macros.h"
#include "core/quant/stored_groups.h"
#include "core/tensor/dtype.h"
#include "core/tensor/shape.h"
#include "core/tensor/tensor.h"

namespace strata {
namespace {

constexpr int64_t kBlock = 32;  // Elements of a GGUF block.

float FromBits(uint32_t bits) {
  float value;
  std::memcpy(&value, &bits, sizeof(value));
  return value;
}

template <typename T>
T Load(const char* from) {
  T value;
  std::memcpy(&value, from, sizeof(value));
  return value;
}

// A small float of 1 + exponent + mantissa bits, with subnormals. `ieee`: the
// largest exponent is for infinities and NaN; else only its largest mantissa is
// NaN (OCP's E4M3).
float FromSmallFloat(uint32_t bits, int exponent_bits, int mantissa_bits,
                     bool ieee) {
  const uint32_t mantissa = bits & ((1u << mantissa_bits) - 1);
  const uint32_t max_exponent = (1u << exponent_bits) - 1;
  const uint32_t exponent = bits >> mantissa_bits & max_exponent;
  const bool negative = bits >> (exponent_bits + mantissa_bits) & 1;
  const int bias = (1 << (exponent_bits - 1)) - 1;
  float value;
  if (exponent == max_exponent &&
      (ieee || mantissa == (1u << mantissa_bits) - 1)) {
    value = ieee && mantissa == 0 ? std::numeric_limits<float>::infinity()
                                  : std::numeric_limits<float>::quiet_NaN();
  } else if (exponent == 0) {
    value = std::ldexp(static_cast<float>(mantissa), 1 - bias - mantissa_bits);
  } else {
    value = std::ldexp(static_cast<float>(mantissa | 1u << mantissa_bits),
                       static_cast<int>(exponent) - bias - mantissa_bits);
  }
  return negative ? -value : value;
}

float FromF16(uint16_t bits) { return FromSmallFloat(bits, 5, 10, true); }

const std::array<float, 65536>& F16Table() {
  static const auto* const kTable = [] {
    auto* table = new std::array<float, 65536>;
    for (int i = 0; i < 65536; ++i) (*table)[i] = FromF16(i);
    return table;
  }();
  return *kTable;
}

template <bool kE4M3>
const std::array<float, 256>& F8Table() {
  static const auto* const kTable = [] {
    auto* table = new std::array<float, 256>;
    for (int i = 0; i < 256; ++i) {
      (*table)[i] = kE4M3 ? FromSmallFloat(i, 4, 3, false)
                          : FromSmallFloat(i, 5, 2, true);
    }
    return table;
  }();
  return *kTable;
}

// Elements [begin, begin + n) of what `data` holds.
template <typename T>
void ReadPlain(DType dtype, const char* data, int64_t begin, int64_t n,
               T* out) {
  const char* const from = data + begin * SizeOf(dtype);
  const auto* const bytes = reinterpret_cast<const uint8_t*>(from);
  switch (dtype) {
    case DType::kF32:
      for (int64_t i = 0; i < n; ++i) out[i] = Load<float>(from + 4 * i);
      return;
    case DType::kF64:
      for (int64_t i = 0; i < n; ++i) {
        out[i] = static_cast<T>(Load<double>(from + 8 * i));
      }
      return;
    case DType::kF16: {
      const std::array<float, 65536>& table = F16Table();
      for (int64_t i = 0; i < n; ++i) {
        out[i] = table[Load<uint16_t>(from + 2 * i)];
      }
      return;
    }
    case DType::kBF16:
      for (int64_t i = 0; i < n; ++i) {
        out[i] = FromBits(uint32_t{Load<uint16_t>(from + 2 * i)} << 16);
      }
      return;
    case DType::kF8E4M3:
      for (int64_t i = 0; i < n; ++i) out[i] = F8Table<true>()[bytes[i]];
      return;
    case DType::kF8E5M2:
      for (int64_t i = 0; i < n; ++i) out[i] = F8Table<false>()[bytes[i]];
      return;
    default:
      CHECK(false) << "no numbers in " << Name(dtype);
  }
}

template <typename T>
void ReadQ8(const char* data, int64_t begin, int64_t n, T* out) {
  constexpr int64_t kBytes = 2 + kBlock;
  for (int64_t i = 0; i < n; ++i) {
    const int64_t at = begin + i;
    const char* const block = data + at / kBlock * kBytes;
    const auto q = static_cast<int8_t>(block[2 + at % kBlock]);
    out[i] = F16Table()[Load<uint16_t>(block)] * static_cast<float>(q);
  }
}

template <typename T>
void ReadGroups(const StoredGroups& groups, int64_t row, T* out) {
  if constexpr (sizeof(T) == sizeof(float)) {
    ReadRow(groups, row, out);
  } else {
    std::vector<float> numbers(groups.columns);
    ReadRow(groups, row, numbers.data());
    std::copy(numbers.begin(), numbers.end(), out);
  }
}

template <typename T>
void ReadQ4(const char* data, int64_t begin, int64_t n, T* out) {
  constexpr int64_t kBytes = 2 + kBlock / 2;
  for (int64_t i = 0; i < n; ++i) {
    const int64_t at = begin + i;
    const char* const block = data + at / kBlock * kBytes;
    const int64_t in_block = at % kBlock;
    const auto byte = static_cast<uint8_t>(block[2 + in_block % (kBlock / 2)]);
    const int q = in_block < kBlock / 2 ? byte & 15 : byte >> 4;
    out[i] = F16Table()[Load<uint16_t>(block)] * static_cast<float>(q - 8);
  }
}

}  // namespace

int64_t PackedBytes(StoredTensor::Packing packing, int64_t num_elements) {
  CHECK(num_elements % kBlock == 0) << num_elements;
  CHECK(packing != StoredTensor::Packing::kGroups) << "is not GGUF's";
  return num_elements / kBlock *
         (packing == StoredTensor::Packing::kQ8_0 ? 2 + kBlock
                                                  : 2 + kBlock / 2);
}

StoredTensor PartOf(const StoredTensor& tensor, int64_t i, int64_t parts,
                    const Shape& part_shape) {
  StoredTensor part = tensor;
  part.view.shape = part_shape;
  const int64_t elements = tensor.view.num_elements() / parts;
  if (tensor.packing != StoredTensor::Packing::kGroups) {
    part.view.data = static_cast<char*>(tensor.view.data) +
                     elements * SizeOf(tensor.view.dtype) * i;
    return part;
  }
  StoredGroups& groups = part.groups;
  const QuantFormat& format = groups.format;
  const int64_t row = elements / groups.columns * i;
  const int64_t num_groups = NumGroups(format, groups.columns);
  groups.code += row * NumWords(groups.columns, format.bits);
  groups.scale += row * num_groups;
  if (groups.zero != nullptr) {
    groups.zero += row * format.bits / 32 * num_groups;
  }
  part.view.data = const_cast<uint32_t*>(groups.code);
  return part;
}

bool IsReadable(DType dtype) { return IsFloat(dtype); }

template <typename T>
absl::Status ReadNumbers(absl::string_view name, const StoredTensor& tensor,
                         const Fp8Scale* scale, T* out) {
  const TensorView& view = tensor.view;
  const int64_t all = view.num_elements();
  if (all == 0) return absl::OkStatus();
  const int64_t columns = view.rank() < 2 ? 1 : view.shape.back();
  const int64_t rows = all / columns;
  const int64_t head = tensor.paired_heads > 0 ? rows / tensor.paired_heads : 0;
  const char* const data = static_cast<const char*>(view.data);
  const int64_t scale_columns =
      scale == nullptr ? 0 : (columns + scale->columns - 1) / scale->columns;
  // Vectors go in pieces rather than number by number.
  const int64_t step = columns == 1 && head == 0 && scale == nullptr ? rows : 1;
  for (int64_t row = 0; row < rows; row += step) {
    int64_t from = row;
    if (head > 0) {
      const int64_t j = row % head, half = head / 2;
      from = row - j + (j < half ? 2 * j : 2 * (j - half) + 1);
    }
    T* const to = out + row * columns;
    const int64_t n = step * columns;
    switch (tensor.packing) {
      case StoredTensor::Packing::kNone:
        ReadPlain(view.dtype, data, from * columns, n, to);
        break;
      case StoredTensor::Packing::kQ8_0:
        ReadQ8(data, from * columns, n, to);
        break;
      case StoredTensor::Packing::kQ4_0:
        ReadQ4(data, from * columns, n, to);
        break;
      case StoredTensor::Packing::kGroups:
        ReadGroups(tensor.groups, from, to);
        break;
    }
    if (scale != nullptr) {
      const float* const of_row =
          scale->scale + row / scale->rows * scale_columns;
      for (int64_t c = 0; c < n; ++c) to[c] *= of_row[c / scale->columns];
    }
    for (int64_t c = 0; c < n; ++c) {
      if (std::isfinite(to[c])) continue;
      return absl::InvalidArgumentError(absl::StrCat(
          "tensor \"", name, "\" holds ",
          std::isnan(to[c]) ? "a NaN" : "an infinity", " at element ",
          row * columns + c, " of ", all, "; want finite weights"));
    }
  }
  return absl::OkStatus();
}

template absl::Status ReadNumbers(absl::string_view, const StoredTensor&,
                                  const Fp8Scale*, float*);
template absl::Status ReadNumbers(absl::string_view, const StoredTensor&,
                                  const Fp8Scale*, double*);

}  // namespace strata
