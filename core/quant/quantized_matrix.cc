#include "core/quant/quantized_matrix.h"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "core/base/status_macros.h"
#include "core/quant/format.h"
#include "core/tensor/bfloat16.h"

namespace strata {
namespace {

// The nearest that is not below x, so that nothing is clipped by rounding.
BFloat16 RoundUpToBFloat16(float x) {
  BFloat16 rounded = RoundToBFloat16(x);
  if (Widen(rounded) < x) ++rounded.bits;
  return rounded;
}

}  // namespace

QuantizedMatrix::QuantizedMatrix(const QuantFormat& format, int64_t rows,
                                 int64_t columns)
    : format(format),
      rows(rows),
      columns(columns),
      code(rows * columns, static_cast<uint8_t>(format.middle())),
      scale(rows * NumGroups(format, columns)),
      zero(scale.size(), static_cast<uint8_t>(format.middle())) {}

void QuantizedMatrix::DequantizeRow(int64_t row, float* out) const {
  const int64_t group = GroupColumns(format, columns), groups = num_groups();
  for (int64_t g = 0; g < groups; ++g) {
    const float s = Widen(scale[row * groups + g]);
    const int z = zero[row * groups + g];
    for (int64_t c = g * group; c < (g + 1) * group; ++c) {
      out[c] = static_cast<float>(code[row * columns + c] - z) * s;
    }
  }
}

std::vector<float> QuantizedMatrix::Dequantize() const {
  std::vector<float> out(rows * columns);
  for (int64_t row = 0; row < rows; ++row) {
    DequantizeRow(row, out.data() + row * columns);
  }
  return out;
}

NumberRange RangeOf(const float* w, int64_t n) {
  NumberRange range;
  for (int64_t i = 0; i < n; ++i) {
    range.low = std::min(range.low, w[i]);
    range.high = std::max(range.high, w[i]);
  }
  return range;
}

GroupScale ScaleOf(const NumberRange& range, const QuantFormat& format,
                   float shrink) {
  const auto [low, high] = range;
  const auto middle = static_cast<float>(format.middle());
  const auto max_code = static_cast<float>(format.max_code());
  GroupScale result;
  if (format.symmetric) {
    // There is one more code below the zero than above.
    const float widest = std::max(high / (middle - 1), -low / middle);
    result.scale = shrink == 1 ? RoundUpToBFloat16(widest)
                               : RoundToBFloat16(widest * shrink);
    result.zero = static_cast<uint8_t>(format.middle());
    return result;
  }
  const float widest = (high - low) / max_code * shrink;
  result.scale =
      shrink == 1 ? RoundUpToBFloat16(widest) : RoundToBFloat16(widest);
  const float scale = Widen(result.scale);
  result.zero = scale == 0 ? 0
                           : static_cast<uint8_t>(std::clamp(
                                 -low * shrink / scale + 0.5f, 0.0f, max_code));
  return result;
}

absl::Status CheckWeights(absl::string_view name, const float* w, int64_t rows,
                          int64_t columns, const QuantFormat& format) {
  RETURN_IF_ERROR(CheckFormat(name, format, columns));
  for (int64_t i = 0; i < rows * columns; ++i) {
    if (std::isfinite(w[i])) continue;
    return absl::InvalidArgumentError(absl::StrCat(
        "tensor \"", name, "\" holds ",
        std::isnan(w[i]) ? "a NaN" : "an infinity", " at element ", i, " of ",
        rows * columns, "; only finite weights can be quantised"));
  }
  return absl::OkStatus();
}

QuantizedMatrix RoundToNearest(const float* w, int64_t rows, int64_t columns,
                               const QuantFormat& format) {
  QuantizedMatrix m(format, rows, columns);
  const int64_t group = GroupColumns(format, columns);
  for (int64_t at = 0; at < rows * columns; at += group) {
    const GroupScale s = ScaleOf(RangeOf(w + at, group), format);
    m.scale[at / group] = s.scale;
    m.zero[at / group] = s.zero;
    for (int64_t c = at; c < at + group; ++c) {
      m.code[c] = CodeOf(w[c], Widen(s.scale), s.zero, format.max_code());
    }
  }
  return m;
}

}  // namespace strata
