// A matrix in integers, as calibration works on it: a byte a code, whatever
// their bits. How files and kernels have it: stored_groups.h, packed_rows.h.

#ifndef CORE_QUANT_QUANTIZED_MATRIX_H_
#define CORE_QUANT_QUANTIZED_MATRIX_H_

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "core/quant/format.h"
#include "core/tensor/bfloat16.h"

namespace strata {

struct QuantizedMatrix {
  QuantFormat format;
  int64_t rows = 0;
  int64_t columns = 0;
  std::vector<uint8_t> code;    // [rows, columns]
  std::vector<BFloat16> scale;  // [rows, groups]
  std::vector<uint8_t> zero;    // [rows, groups]

  // Room for rows x columns in `format`, which must fit; all weights are 0.
  QuantizedMatrix(const QuantFormat& format, int64_t rows, int64_t columns);
  QuantizedMatrix() = default;

  int64_t num_groups() const { return NumGroups(format, columns); }
  // Writes row `row` in numbers to `out` [columns].
  void DequantizeRow(int64_t row, float* out) const;
  // All of them, [rows, columns].
  std::vector<float> Dequantize() const;
};

// A model's, by our names; of experts one each.
using QuantizedParameters = std::map<std::string, std::vector<QuantizedMatrix>>;

// What a group's numbers are rounded with.
struct GroupScale {
  BFloat16 scale;
  uint8_t zero = 0;
};

// The code of `x`: the nearest that there is. A scale of 0 makes it the zero.
inline uint8_t CodeOf(float x, float scale, int zero, int max_code) {
  if (scale == 0) return static_cast<uint8_t>(zero);
  // Far outside, the quotient need not fit an integer.
  const float q = x / scale + static_cast<float>(zero);
  if (!(q > 0)) return 0;
  if (q >= static_cast<float>(max_code)) return static_cast<uint8_t>(max_code);
  return static_cast<uint8_t>(q + 0.5f);
}

// Of numbers, and zero.
struct NumberRange {
  float low = 0, high = 0;
};
NumberRange RangeOf(const float* w, int64_t n);

// The smallest scale, times `shrink`, with which no number of a range is
// clipped; below 1 the largest are. Of numbers that a symmetric format holds
// and whose largest is its last code, it is the scale that they have.
GroupScale ScaleOf(const NumberRange& range, const QuantFormat& format,
                   float shrink = 1);

// Returns INVALID_ARGUMENT, naming element and tensor, if a number of w
// [rows, columns] is a NaN or an infinity, and the errors of CheckFormat.
absl::Status CheckWeights(absl::string_view name, const float* w, int64_t rows,
                          int64_t columns, const QuantFormat& format);

// Each number of w [rows, columns] to the nearest code, by ScaleOf of its
// group: what every other method is held against. w must be checked.
QuantizedMatrix RoundToNearest(const float* w, int64_t rows, int64_t columns,
                               const QuantFormat& format);

}  // namespace strata

#endif  // CORE_QUANT_QUANTIZED_MATRIX_H_
