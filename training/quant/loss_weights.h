// What an error of a matrix's output costs: the mean square of the loss's
// gradient in that output.
//
//   steps of training, undone      inputs x of calibration
//     |                              |
//     v                              v
//   gradient g of each weight      energy of each matrix's inputs, |x|^2 summed
//     |  squares of a row, summed    |
//     +------------------------------+
//                    v
//   weight of an output = sum of g^2 / sum of |x|^2          [n, rows]
//
// A weight's gradient is the sum over tokens of its output's times its input,
// so a row's squares over the energy of its inputs are its output's. With them
// the error of a row, d, of which H = sum of x x^T makes d H d^T, costs what
// the loss would change by: the empirical Fisher matrix of a matrix as a
// product of one of inputs and one of outputs, of which the diagonal (Martens
// and Grosse, arXiv:1503.05671). Of an expert that few tokens are routed to, or
// with little weight, both are small.

#ifndef TRAINING_QUANT_LOSS_WEIGHTS_H_
#define TRAINING_QUANT_LOSS_WEIGHTS_H_

#include <cstdint>
#include <functional>
#include <set>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "core/quant/input_moments.h"
#include "training/quant/model_numbers.h"
#include "training/trainer.h"

namespace strata {

// Steps whose gradients say enough.
inline constexpr int64_t kLossWeightSteps = 24;

// Of each matrix of `names`, products by a layer's weight in the graph of
// evaluation: [n, rows], n being its experts or 1; 0 of experts that get no
// input. Runs `batches`, then takes `num_steps` steps of the trainer, after
// each of which the model is put back as it was. Bit for bit the same for the
// same state, text and seed.
//
// Asks `stop`, which may be null as `progress` may, between steps. Returns
// CANCELLED if it says so, and the errors of ForInputs and of Trainer::Step.
absl::StatusOr<ModelNumbers> LossWeights(Trainer& trainer,
                                         const std::set<std::string>& names,
                                         const std::vector<TokenBatch>& batches,
                                         int64_t num_steps,
                                         const std::function<bool()>& stop,
                                         const StepsDone& progress = nullptr);

}  // namespace strata

#endif  // TRAINING_QUANT_LOSS_WEIGHTS_H_
