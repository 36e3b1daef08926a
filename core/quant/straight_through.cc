#include "core/quant/straight_through.h"

#include <algorithm>
#include <cmath>
#include <cstdint>

#include "core/quant/format.h"
#include "core/quant/quantized_matrix.h"
#include "core/tensor/bfloat16.h"

namespace strata {
namespace {

// A zero as it is stored.
int CodeOfZero(float zero, const QuantFormat& format) {
  return static_cast<int>(std::clamp(std::round(zero), 0.0f,
                                     static_cast<float>(format.max_code())));
}

// Where a number's code would be if there were codes everywhere.
int UnclippedCode(float position, int zero) {
  return static_cast<int>(std::round(position)) + zero;
}

}  // namespace

LearnedMatrix::LearnedMatrix(const QuantizedMatrix& matrix)
    : format_(matrix.format),
      rows_(matrix.rows),
      columns_(matrix.columns),
      position_(matrix.code.size()),
      of_scale_(matrix.scale.size()),
      of_zero_(matrix.format.symmetric ? 0 : matrix.zero.size()) {
  const int64_t group = GroupColumns(format_, columns_);
  for (int64_t i = 0; i < rows_ * columns_; ++i) {
    position_[i] = static_cast<float>(matrix.code[i] - matrix.zero[i / group]);
  }
  for (const BFloat16 s : matrix.scale) scale_.push_back(Widen(s));
  zero_.assign(matrix.zero.begin(), matrix.zero.end());
}

float LearnedMatrix::Moments::Step(float gradient, const AdamRates& rates) {
  const auto beta1 = static_cast<float>(rates.beta1);
  const auto beta2 = static_cast<float>(rates.beta2);
  mean = beta1 * mean + (1 - beta1) * gradient;
  square = beta2 * square + (1 - beta2) * gradient * gradient;
  const auto step = static_cast<double>(rates.step);
  const double m = mean / (1 - std::pow(rates.beta1, step));
  const double v = square / (1 - std::pow(rates.beta2, step));
  return static_cast<float>(rates.rate * m / (std::sqrt(v) + rates.eps));
}

void LearnedMatrix::MoveRow(int64_t row, const float* gradient,
                            const float* moves, const AdamRates& rates) {
  const int64_t group = GroupColumns(format_, columns_);
  const int64_t groups = NumGroups(format_, columns_);
  const int max = format_.max_code();
  float* const q = position_.data() + row * columns_;
  for (int64_t g = 0; g < groups; ++g) {
    float& scale = scale_[row * groups + g];
    if (scale == 0) continue;
    float& zero = zero_[row * groups + g];
    const int z = CodeOfZero(zero, format_);
    float of_scale = 0, of_zero = 0;
    for (int64_t c = g * group; c < (g + 1) * group; ++c) {
      const int unclipped = UnclippedCode(q[c], z);
      const int code = std::clamp(unclipped, 0, max);
      of_scale += gradient[c] * static_cast<float>(code - z);
      if (code != unclipped) of_zero -= gradient[c] * scale;
      const float move = std::copysign(1.0f, scale) * moves[c];
      // Else it would be lost for good, as q knows nothing of the scale.
      const bool leads_back = (move < 0) == (code < unclipped);
      if (code == unclipped || leads_back) q[c] += move;
    }
    // Of the share of itself, times the steps that it moves the last code by.
    const auto middle = static_cast<float>(format_.middle());
    const float share =
        of_scale_[row * groups + g].Step(of_scale * scale, rates) / middle;
    scale *= 1 - std::min(share, 0.5f);
    if (!format_.symmetric) {
      zero -= of_zero_[row * groups + g].Step(of_zero, rates);
      zero = std::clamp(zero, 0.0f, static_cast<float>(max));
    }
  }
}

void LearnedMatrix::RoundRow(int64_t row, QuantizedMatrix& out) const {
  const int64_t group = GroupColumns(format_, columns_);
  const int64_t groups = NumGroups(format_, columns_);
  for (int64_t g = 0; g < groups; ++g) {
    const int64_t at = row * groups + g;
    const int z = CodeOfZero(zero_[at], format_);
    out.scale[at] = RoundToBFloat16(scale_[at]);
    out.zero[at] = static_cast<uint8_t>(z);
    for (int64_t c = g * group; c < (g + 1) * group; ++c) {
      const int64_t i = row * columns_ + c;
      out.code[i] = static_cast<uint8_t>(
          std::clamp(UnclippedCode(position_[i], z), 0, format_.max_code()));
    }
  }
}

}  // namespace strata
