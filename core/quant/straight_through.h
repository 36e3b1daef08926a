// A quantised matrix that is learned by gradient: where its numbers lie between
// the codes, its scales and its zeros.
//
//   q  [rows, columns]  a number, in steps from the zero      F32
//   s, z  a group       its scale, its zero                   F32
//     |   code = round(q) + round(z), clipped to [0, max]
//     v
//   w' = (code - round(z)) * s                                as it is stored
//     |   products of the model, its loss
//     v
//   g = dL/dw'
//
//   dL/ds = sum of g (code - z)           codes as they are
//   dL/dq = g s                           rounding passes it
//   (straight-through);
//                                         of a clipped number 0, unless it
//                                         leads back
//   dL/dz = -sum of g s over clipped      where clipping begins moves with z
//
// (Bengio et al., arXiv:1308.3432, for rounding; Esser et al., "LSQ",
// arXiv:1902.08153, and Bhalgat et al., "LSQ+", arXiv:2004.09576, with q in
// place of q s.) What is clipped begins at -z s and (max - z) s, so clipping is
// learned with both.

#ifndef CORE_QUANT_STRAIGHT_THROUGH_H_
#define CORE_QUANT_STRAIGHT_THROUGH_H_

#include <cstdint>
#include <vector>

#include "core/quant/format.h"
#include "core/quant/quantized_matrix.h"

namespace strata {

// How the scale and the zero of a group move: Adam's moments of their
// gradients.
struct AdamRates {
  double rate = 0;  // Of this step.
  int64_t step = 1;
  double beta1 = 0.9;
  double beta2 = 0.95;
  double eps = 1e-8;
};

class LearnedMatrix {
 public:
  // Numbers in the middle of their codes: Rounded() is `matrix`.
  explicit LearnedMatrix(const QuantizedMatrix& matrix);

  const QuantFormat& format() const { return format_; }
  int64_t rows() const { return rows_; }
  int64_t columns() const { return columns_; }

  // A step of row `row`. `gradient` [columns] is dL/dw'; `moves` [columns] is
  // how far each number goes along -dL/dw', in steps of its code: what an
  // optimiser makes of the gradient, whose learning rate is then in codes.
  // Numbers that are clipped do not go further out. A scale moves by the share
  // of itself that moves the codes farthest from the zero by as many steps, a
  // zero by steps. Groups whose scale is 0 stay. Rows may be moved at the same
  // time.
  void MoveRow(int64_t row, const float* gradient, const float* moves,
               const AdamRates& rates);

  // The row's codes, scales and zeros, to row `row` of `out`, which has the
  // matrix's format and extents.
  void RoundRow(int64_t row, QuantizedMatrix& out) const;

 private:
  struct Moments {
    float mean = 0;
    float square = 0;
    // What Adam makes of `gradient`, to be taken off.
    float Step(float gradient, const AdamRates& rates);
  };

  QuantFormat format_;
  int64_t rows_ = 0;
  int64_t columns_ = 0;
  std::vector<float> position_;  // [rows, columns]  q
  std::vector<float> scale_;     // [rows, groups]
  std::vector<float> zero_;      // [rows, groups]
  std::vector<Moments> of_scale_, of_zero_;
};

}  // namespace strata

#endif  // CORE_QUANT_STRAIGHT_THROUGH_H_
