#include "core/quant/bit_gains.h"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "absl/types/span.h"
#include "core/base/status_macros.h"
#include "core/base/thread_pool.h"
#include "core/quant/calibrate.h"
#include "core/quant/format.h"
#include "core/quant/quantized_matrix.h"

namespace strata {
namespace {

absl::Status CheckOutputWeights(const MatrixStack& matrix,
                                const std::vector<InputMoments>& moments,
                                absl::Span<const float> weights) {
  if (weights.empty()) return absl::OkStatus();
  const int64_t wanted = matrix.n * matrix.rows;
  if (static_cast<int64_t>(weights.size()) != wanted) {
    return absl::InvalidArgumentError(absl::StrCat(
        "tensor \"", matrix.name, "\" has ", wanted, " outputs, and ",
        weights.size(), " weights are given for them"));
  }
  for (const float x : weights) {
    if (std::isfinite(x) && x >= 0) continue;
    return absl::InvalidArgumentError(
        absl::StrCat("a weight of the outputs of tensor \"", matrix.name,
                     "\" is ", x, "; want a number that is not negative"));
  }
  if (!moments.empty()) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat(
      "the outputs of tensor \"", matrix.name,
      "\" have weights, but no calibration data says what they are"));
}

}  // namespace

std::vector<int> BitsFrom(int least) {
  std::vector<int> all;
  for (int bits = least; bits <= 8; bits *= 2) all.push_back(bits);
  return all;
}

absl::StatusOr<std::vector<std::vector<double>>> GainsOfBits(
    const MatrixStack& matrix, QuantFormat format,
    const std::vector<InputMoments>& moments,
    absl::Span<const float> output_weights, ThreadPool& pool) {
  RETURN_IF_ERROR(CheckOutputWeights(matrix, moments, output_weights));
  const int64_t rows = matrix.rows;
  const std::vector<int> all_bits = BitsFrom(format.bits);
  std::vector<std::vector<double>> lost(matrix.n);  // [n, all_bits]
  double energy = 0;
  for (int64_t e = 0; e < matrix.n; ++e) {
    const float* const from = matrix.w + e * rows * matrix.columns;
    const std::vector<float> none;
    const std::vector<float>& h = moments.empty() ? none : moments[e].sum;
    absl::Span<const float> counts;
    if (!output_weights.empty()) {
      counts = output_weights.subspan(e * rows, rows);
    }
    for (const int bits : all_bits) {
      format.bits = bits;
      RETURN_IF_ERROR(
          CheckWeights(matrix.name, from, rows, matrix.columns, format));
      const QuantError error =
          ErrorOf(from, RoundToNearest(from, rows, matrix.columns, format), h,
                  pool, counts);
      lost[e].push_back(h.empty() ? error.weight_error : error.output_error);
      if (bits == all_bits[0])
        energy += h.empty() ? error.weight : error.output;
    }
  }
  if (!output_weights.empty()) energy = 1;
  std::vector<std::vector<double>> gains(matrix.n);
  for (int64_t e = 0; e < matrix.n; ++e) {
    for (size_t i = 0; i + 1 < all_bits.size(); ++i) {
      const double gain = lost[e][i] - lost[e][i + 1];
      gains[e].push_back(energy > 0 ? std::max(0.0, gain / energy) : 0);
    }
  }
  return gains;
}

}  // namespace strata
