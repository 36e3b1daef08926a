#include "core/quant/calibrate.h"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "core/base/status_macros.h"
#include "core/base/thread_pool.h"
#include "core/cpu/gemm.h"
#include "core/cpu/vector_math.h"
#include "core/quant/format.h"
#include "core/quant/learned_rows.h"
#include "core/quant/quantized_matrix.h"
#include "core/quant/row_calibration.h"

namespace strata {
namespace {

// Rows that a thread calibrates at a time, and whose errors it reckons.
constexpr int64_t kRowsTogether = 32;
constexpr int64_t kErrorRows = 64;

constexpr CalibrationMethod kMethods[] = {
    CalibrationMethod::kNearest, CalibrationMethod::kClip,
    CalibrationMethod::kFeedback, CalibrationMethod::kLearned};

absl::Status CheckMoments(absl::string_view name,
                          const std::vector<float>& moments) {
  for (const float x : moments) {
    if (std::isfinite(x)) continue;
    return absl::InvalidArgumentError(
        absl::StrCat("the inputs of tensor \"", name,
                     "\" in the calibration data hold a NaN or an infinity"));
  }
  return absl::OkStatus();
}

}  // namespace

absl::string_view Name(CalibrationMethod method) {
  switch (method) {
    case CalibrationMethod::kNearest:
      return "nearest";
    case CalibrationMethod::kClip:
      return "clip";
    case CalibrationMethod::kFeedback:
      return "feedback";
    case CalibrationMethod::kLearned:
      return "learned";
  }
  return "unknown";
}

absl::StatusOr<CalibrationMethod> CalibrationMethodOf(absl::string_view name) {
  for (const CalibrationMethod method : kMethods) {
    if (Name(method) == name) return method;
  }
  return absl::InvalidArgumentError(
      absl::StrCat("no calibration method is called \"", name,
                   "\"; want nearest, clip, feedback or learned"));
}

absl::StatusOr<std::vector<float>> BlendMoments(absl::string_view name,
                                                const InputMoments& own,
                                                const InputMoments& all) {
  if (all.count == 0) {
    return absl::InvalidArgumentError(
        absl::StrCat("tensor \"", name,
                     "\" saw 0 inputs in the calibration data, nor did "
                     "any other expert of its layer; want more data"));
  }
  const auto pseudo = static_cast<double>(own.columns);
  const auto count = static_cast<double>(own.count);
  const double of_all = pseudo / static_cast<double>(all.count);
  std::vector<float> blend(own.sum.size());
  for (size_t i = 0; i < blend.size(); ++i) {
    blend[i] = static_cast<float>((own.sum[i] + of_all * all.sum[i]) /
                                  (count + pseudo));
  }
  return blend;
}

absl::StatusOr<QuantizedMatrix> Calibrate(
    absl::string_view name, const float* w, int64_t rows, int64_t columns,
    const QuantFormat& format, CalibrationMethod method,
    const std::vector<float>& moments, ThreadPool& pool) {
  RETURN_IF_ERROR(CheckWeights(name, w, rows, columns, format));
  if (method == CalibrationMethod::kNearest) {
    return RoundToNearest(w, rows, columns, format);
  }
  RETURN_IF_ERROR(CheckMoments(name, moments));
  std::vector<float> alike;
  if (moments.empty()) {
    alike.resize(columns * columns);
    for (int64_t c = 0; c < columns; ++c) alike[c * (columns + 1)] = 1;
  }
  const bool clips = method == CalibrationMethod::kClip;
  const Curvature curvature =
      CurvatureOf(moments.empty() ? alike : moments, columns, !clips);
  QuantizedMatrix m(format, rows, columns);
  const int64_t blocks = (rows + kRowsTogether - 1) / kRowsTogether;
  pool.ParallelFor(blocks, [&](int64_t block) {
    const int64_t first = block * kRowsTogether;
    const int64_t count = std::min(kRowsTogether, rows - first);
    const float* const from = w + first * columns;
    if (clips) {
      for (int64_t i = 0; i < count; ++i) {
        ClipRow(from + i * columns, curvature, first + i, m);
      }
      return;
    }
    FeedbackRows(from, curvature, first, count, m);
    if (method == CalibrationMethod::kLearned) {
      LearnRows(from, curvature, first, count, m);
    }
  });
  return m;
}

QuantError& QuantError::operator+=(const QuantError& other) {
  weight += other.weight;
  weight_error += other.weight_error;
  output += other.output;
  output_error += other.output_error;
  return *this;
}

QuantError ErrorBetween(const float* w, const float* other, int64_t rows,
                        int64_t columns, const std::vector<float>& moments,
                        ThreadPool& pool,
                        absl::Span<const float> output_weights) {
  const VectorMath<float>& vec = VectorMath<float>::Get();
  const int64_t k = columns;
  std::vector<QuantError> of_row(rows);
  // Rows of w and of its error, and both by H, some at a time.
  const int64_t blocks = (rows + kErrorRows - 1) / kErrorRows;
  pool.ParallelFor(blocks, [&](int64_t block) {
    const int64_t first = block * kErrorRows;
    const int64_t n = std::min(kErrorRows, rows - first);
    std::vector<float> x(w + first * k, w + (first + n) * k);
    x.resize(2 * n * k);
    float* const error = x.data() + n * k;
    for (int64_t i = 0; i < n * k; ++i) error[i] = x[i] - other[first * k + i];
    std::vector<float> image;
    if (!moments.empty()) {
      image.resize(2 * n * k);
      GemmArgs<float> g;
      g.m = 2 * n;
      g.n = g.k = g.lda = g.ldb = g.ldc = k;
      g.a = x.data();
      g.b = moments.data();
      g.c = image.data();
      Gemm(g);
    }
    // Row i of x by its image.
    const auto energy = [&](int64_t i) {
      double sum = 0;
      for (int64_t c = i * k; c < (i + 1) * k; ++c) {
        sum += double{image[c]} * x[c];
      }
      return sum;
    };
    for (int64_t i = 0; i < n; ++i) {
      QuantError& e = of_row[first + i];
      const float* const from = x.data() + i * k;
      e.weight = vec.dot(from, from, k);
      e.weight_error = vec.dot(error + i * k, error + i * k, k);
      if (moments.empty()) continue;
      const double counts =
          output_weights.empty() ? 1 : output_weights[first + i];
      e.output = energy(i) * counts;
      e.output_error = energy(n + i) * counts;
    }
  });
  QuantError sum;
  for (const QuantError& e : of_row) sum += e;
  return sum;
}

QuantError ErrorOf(const float* w, const QuantizedMatrix& quantized,
                   const std::vector<float>& moments, ThreadPool& pool,
                   absl::Span<const float> output_weights) {
  return ErrorBetween(w, quantized.Dequantize().data(), quantized.rows,
                      quantized.columns, moments, pool, output_weights);
}

absl::StatusOr<CalibratedMatrix> CalibrateMatrix(
    absl::string_view name, const float* w, int64_t rows, int64_t columns,
    const QuantFormat& format, CalibrationMethod method,
    const InputMoments* own, const InputMoments* all, ThreadPool& pool) {
  std::vector<float> blend;
  if (all != nullptr) {
    ASSIGN_OR_RETURN(blend, BlendMoments(name, *own, *all));
  }
  const std::vector<float> none;
  const std::vector<float>& of_own = own == nullptr ? none : own->sum;
  CalibratedMatrix made;
  ASSIGN_OR_RETURN(made.matrix,
                   Calibrate(name, w, rows, columns, format, method,
                             blend.empty() ? of_own : blend, pool));
  made.error = ErrorOf(w, made.matrix, of_own, pool);
  return made;
}

}  // namespace strata
