// The calibration of a few rows of a matrix: what calibrate.h describes,
// without threads and checks. Rows are done together where what they share is
// more than a processor's caches hold.

#ifndef CORE_QUANT_ROW_CALIBRATION_H_
#define CORE_QUANT_ROW_CALIBRATION_H_

#include <cstdint>
#include <vector>

#include "core/quant/quantized_matrix.h"

namespace strata {

// What all rows share. H is made well conditioned: a hundredth of its mean
// diagonal is added to that.
struct Curvature {
  int64_t columns = 0;
  std::vector<float> moment;    // [columns, columns]  H
  std::vector<float> feedback;  // [columns, columns]  U^T, strictly lower
  std::vector<float> weight;    // [columns]           D
};
// H = (U + 1) D (U + 1)^T, U strictly upper, D diagonal: D is what an error of
// a column costs once the columns behind have made good what they can. Without
// `factors`, feedback stays empty and D is H's diagonal.
Curvature CurvatureOf(const std::vector<float>& moments, int64_t columns,
                      bool factors);

// The scale of a group with the least sum of weight (w - w')^2, among those
// that clip nothing and down to half of it.
GroupScale SearchScale(const float* w, const float* weight, int64_t n,
                       const QuantFormat& format);

// Row `row` of `m`: scales by search, codes to nearest.
void ClipRow(const float* w, const Curvature& curvature, int64_t row,
             QuantizedMatrix& m);
// Rows [first, first + count), of which w is the first: the same with error
// feedback.
void FeedbackRows(const float* w, const Curvature& curvature, int64_t first,
                  int64_t count, QuantizedMatrix& m);

}  // namespace strata

#endif  // CORE_QUANT_ROW_CALIBRATION_H_
