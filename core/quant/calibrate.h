// Which integers stand for a matrix best, judged by what it does to its inputs.
//
//   w  [rows, columns]         H = sum of x x^T over inputs x  [columns,
//   columns]
//     |                          |
//     +------------+-------------+
//                  v
//   codes and scales that make  sum over inputs |x (w - w')^T|^2  small
//     = sum over rows of d H d^T, d being the row of w - w'
//
// Rows are worked on in blocks by themselves, whatever the threads are, so that
// results do not depend on these.

#ifndef CORE_QUANT_CALIBRATE_H_
#define CORE_QUANT_CALIBRATE_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "core/base/thread_pool.h"
#include "core/quant/format.h"
#include "core/quant/quantized_matrix.h"

namespace strata {

enum class CalibrationMethod {
  kNearest,   // Round to nearest, no number clipped. Wants no inputs.
  kClip,      // Scales of each group searched so that clipping the largest
              // numbers pays; each column's error counts by its inputs' energy.
  kFeedback,  // Columns one after another: what one is off by is made good by
              // those behind it that go with it (Frantar et al., "GPTQ",
              // arXiv:2210.17323, in the form of Chee et al., "QuIP",
              // arXiv:2307.13304, section 3). Scales as in kClip.
  kLearned,   // From there, scales by least squares and codes by coordinate
              // descent in turns, as long as the error falls.
};

// "nearest", "clip", "feedback", "learned".
absl::string_view Name(CalibrationMethod method);
absl::StatusOr<CalibrationMethod> CalibrationMethodOf(absl::string_view name);

// Sums over inputs of a matrix, or of all experts' matrices of a layer.
struct InputMoments {
  int64_t columns = 0;
  int64_t count = 0;       // Inputs.
  std::vector<float> sum;  // [columns, columns]  of x x^T
};

// The moments to calibrate an expert's matrix by, of mean scale: those of its
// own inputs, blended with those of all experts' (`all`) as if it had had as
// many of them as it has columns. So an expert that saw few inputs, too few to
// tell which directions matter, is judged by the layer's; one that saw many, by
// its own.
//
// Returns INVALID_ARGUMENT if `all` has no input.
absl::StatusOr<std::vector<float>> BlendMoments(absl::string_view name,
                                                const InputMoments& own,
                                                const InputMoments& all);

// Quantises w [rows, columns], which is checked first. `moments` is H
// [columns, columns], of any scale; empty: all columns are alike.
//
// Returns the errors of CheckWeights, and INVALID_ARGUMENT if H holds a NaN or
// an infinity.
absl::StatusOr<QuantizedMatrix> Calibrate(
    absl::string_view name, const float* w, int64_t rows, int64_t columns,
    const QuantFormat& format, CalibrationMethod method,
    const std::vector<float>& moments, ThreadPool& pool);

// Energies of a matrix and of its error.
struct QuantError {
  double weight = 0;        // |w|^2
  double weight_error = 0;  // |w - w'|^2
  double output = 0;        // sum of w H w^T over rows
  double output_error = 0;  // the same of w - w'

  QuantError& operator+=(const QuantError& other);
};

// Of w [rows, columns] and `other`. `moments` as in Calibrate; if empty,
// outputs are not looked at. `output_weights` [rows] are what an output's
// energies count; empty: 1.
QuantError ErrorBetween(const float* w, const float* other, int64_t rows,
                        int64_t columns, const std::vector<float>& moments,
                        ThreadPool& pool,
                        absl::Span<const float> output_weights = {});
QuantError ErrorOf(const float* w, const QuantizedMatrix& quantized,
                   const std::vector<float>& moments, ThreadPool& pool,
                   absl::Span<const float> output_weights = {});

struct CalibratedMatrix {
  QuantizedMatrix matrix;
  QuantError error;  // On its own inputs: an expert's count by how many.
};

// Both, by the moments of its inputs, null without data; an expert's blended
// with those of `all`, null of other matrices. Returns the errors of
// BlendMoments and Calibrate.
absl::StatusOr<CalibratedMatrix> CalibrateMatrix(
    absl::string_view name, const float* w, int64_t rows, int64_t columns,
    const QuantFormat& format, CalibrationMethod method,
    const InputMoments* own, const InputMoments* all, ThreadPool& pool);

}  // namespace strata

#endif  // CORE_QUANT_CALIBRATE_H_
