// A row of a quantised matrix that is learned by gradient: where its numbers
// lie between the codes, its scales and its zeros.
//
//   q  [columns]   a number, in steps from the zero      F32
//   s, z  a group  its scale, its zero                   F32
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
  double rate = 0;   // Of this step.
  int64_t step = 1;  // From 1.
  double beta1 = 0.9;
  double beta2 = 0.95;
  double eps = 1e-8;
};

// A row's numbers in memory of the caller's.
struct LearnedRow {
  QuantFormat format;
  int64_t columns = 0;
  float* position = nullptr;  // [columns]  q
  float* scale = nullptr;     // [groups]
  float* zero = nullptr;      // [groups]
  // [groups, kGroupMoments]  of the gradient by the scale a mean and a mean
  // square; of that by the zero likewise.
  float* moments = nullptr;
};
inline constexpr int kGroupMoments = 4;

// Puts numbers in the middle of the codes of row `row` of `matrix`, of which
// `to` has format and columns: RoundRow() gives those back. Moments become 0.
void BeginRow(const QuantizedMatrix& matrix, int64_t row, const LearnedRow& to);

// A step of a row. `gradient` [columns] is dL/dw'. `w` [columns] holds what an
// optimiser made of w', and gets the new w': by how far it went along -dL/dw'
// each number goes in steps of its code, so that the optimiser's learning rate
// is in codes. Numbers that are clipped do not go further out. A scale moves by
// the share of itself that moves the codes farthest from the zero by as many
// steps, a zero by steps. Groups whose scale is 0 stay.
void MoveRow(const LearnedRow& row, const float* gradient,
             const AdamRates& rates, float* w);

// Codes, scales and zeros as they are stored, to row `to` of `out`, which has
// the row's format and columns.
void RoundRow(const LearnedRow& row, int64_t to, QuantizedMatrix& out);

}  // namespace strata

#endif  // CORE_QUANT_STRAIGHT_THROUGH_H_
