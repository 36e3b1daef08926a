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

// What Adam makes of `gradient` and its two moments, to be taken off.
float AdamStep(double gradient, const AdamRates& rates, float* moments) {
  const auto beta1 = static_cast<float>(rates.beta1);
  const auto beta2 = static_cast<float>(rates.beta2);
  const auto g = static_cast<float>(gradient);
  moments[0] = beta1 * moments[0] + (1 - beta1) * g;
  moments[1] = beta2 * moments[1] + (1 - beta2) * (g * g);
  const auto step = static_cast<double>(rates.step);
  const double mean = moments[0] / (1 - std::pow(rates.beta1, step));
  const double square = moments[1] / (1 - std::pow(rates.beta2, step));
  return static_cast<float>(rates.rate * mean /
                            (std::sqrt(square) + rates.eps));
}

}  // namespace

void BeginRow(const QuantizedMatrix& matrix, int64_t row,
              const LearnedRow& to) {
  const int64_t group = GroupColumns(to.format, to.columns);
  const int64_t groups = NumGroups(to.format, to.columns);
  for (int64_t g = 0; g < groups; ++g) {
    to.scale[g] = Widen(matrix.scale[row * groups + g]);
    to.zero[g] = matrix.zero[row * groups + g];
  }
  std::fill_n(to.moments, groups * kGroupMoments, 0.0f);
  for (int64_t c = 0; c < to.columns; ++c) {
    const int zero = matrix.zero[row * groups + c / group];
    to.position[c] =
        static_cast<float>(matrix.code[row * to.columns + c] - zero);
  }
}

void MoveRow(const LearnedRow& row, const float* gradient,
             const AdamRates& rates, float* w) {
  const QuantFormat& format = row.format;
  const int64_t group = GroupColumns(format, row.columns);
  const int64_t groups = NumGroups(format, row.columns);
  const int max = format.max_code();
  for (int64_t g = 0; g < groups; ++g) {
    float& scale = row.scale[g];
    float& zero = row.zero[g];
    int z = CodeOfZero(zero, format);
    float stored = Widen(RoundToBFloat16(scale));
    const int64_t first = g * group, end = first + group;
    double of_scale = 0, of_zero = 0;
    for (int64_t c = first; c < end && scale != 0; ++c) {
      const int unclipped = UnclippedCode(row.position[c], z);
      const int code = std::clamp(unclipped, 0, max);
      of_scale += double{gradient[c]} * (code - z);
      if (code != unclipped) of_zero -= gradient[c];
      const float before = static_cast<float>(code - z) * stored;
      const float move = std::copysign(1.0f, scale) * (w[c] - before);
      // Else it would be lost for good, as q knows nothing of the scale.
      const bool leads_back = (move < 0) == (code < unclipped);
      if (code == unclipped || leads_back) row.position[c] += move;
    }
    if (scale != 0) {
      float* const moments = row.moments + g * kGroupMoments;
      const double s = scale;
      // Of the share of itself, times the steps that it moves the last code by.
      const float share = AdamStep(of_scale * s, rates, moments) /
                          static_cast<float>(format.middle());
      scale *= 1 - std::min(share, 0.5f);
      if (!format.symmetric) {
        zero -= AdamStep(of_zero * s, rates, moments + 2);
        zero = std::clamp(zero, 0.0f, static_cast<float>(max));
      }
      z = CodeOfZero(zero, format);
      stored = Widen(RoundToBFloat16(scale));
    }
    for (int64_t c = first; c < end; ++c) {
      const int code = std::clamp(UnclippedCode(row.position[c], z), 0, max);
      w[c] = static_cast<float>(code - z) * stored;
    }
  }
}

void RoundRow(const LearnedRow& row, int64_t to, QuantizedMatrix& out) {
  const int64_t group = GroupColumns(row.format, row.columns);
  const int64_t groups = NumGroups(row.format, row.columns);
  for (int64_t g = 0; g < groups; ++g) {
    const int z = CodeOfZero(row.zero[g], row.format);
    out.scale[to * groups + g] = RoundToBFloat16(row.scale[g]);
    out.zero[to * groups + g] = static_cast<uint8_t>(z);
    for (int64_t c = g * group; c < (g + 1) * group; ++c) {
      out.code[to * row.columns + c] = static_cast<uint8_t>(std::clamp(
          UnclippedCode(row.position[c], z), 0, row.format.max_code()));
    }
  }
}

}  // namespace strata
