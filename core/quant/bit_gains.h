// What more bits are worth to a matrix: what they take off the error of its
// outputs, numbers rounded to nearest.
//
//   w [n, rows, columns]   H [columns, columns] of each of n   of an output
//     |                      |                                   |
//     +--- 2, 4, 8 bits      |                                   |
//     v                      v                                   v
//   error d of a row  ---->  d H d^T  ---- times what it counts, summed ---->
//                                     what each number of bits loses, of n
//
// An output's error counts by a weight that the caller gives, such as the mean
// square of the loss's gradient in it (training/quant/loss_weights.h); or all
// count alike, as shares of the energy of all outputs of the n together.

#ifndef CORE_QUANT_BIT_GAINS_H_
#define CORE_QUANT_BIT_GAINS_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "core/base/thread_pool.h"
#include "core/quant/calibrate.h"
#include "core/quant/format.h"

namespace strata {

// The numbers of bits that a matrix can have which has `least` at least.
std::vector<int> BitsFrom(int least);

// A matrix, or those of a layer's experts in one tensor.
struct MatrixStack {
  std::string name;
  const float* w = nullptr;  // [n, rows, columns]
  int64_t n = 1;
  int64_t rows = 0;
  int64_t columns = 0;
};

// Of each of n, what each step of BitsFrom(format.bits) takes off the error;
// not negative. `moments` are of its inputs, [n]; empty: errors of weights
// stand in for those of outputs. `output_weights` [n, rows] are what an error's
// energy of an output counts; empty: what all outputs' energy is divided by.
//
// Returns the errors of CheckWeights, and INVALID_ARGUMENT, naming the tensor,
// if weights of outputs are of another number, negative or not finite, or if
// there are such without moments.
absl::StatusOr<std::vector<std::vector<double>>> GainsOfBits(
    const MatrixStack& matrix, QuantFormat format,
    const std::vector<InputMoments>& moments,
    absl::Span<const float> output_weights, ThreadPool& pool);

}  // namespace strata

#endif  // CORE_QUANT_BIT_GAINS_H_
