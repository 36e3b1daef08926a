// Codes, scales and zeros of a quantised model learned through the whole graph:
// by the gradient of the loss of its text, which passes rounding straight
// through.
//
//   q, s, z  --round--> codes, (code - z) s = w' --> trainer: a step, so often
//      ^     core/ops/move_codes                        |
//      |                                                |  gradient of w',
//      +------------- a step of theirs <----------------+  its step of AdamW
//                                                          (then undone)
//
// All of it is where the trainer's backend has it, in programs of that.
//
// The trainer's optimiser moves w' by its learning rate at most, which is taken
// as that many steps of a code: so a rate is right for every number of bits, in
// every matrix.

#ifndef TRAINING_QUANT_CODE_LEARNING_H_
#define TRAINING_QUANT_CODE_LEARNING_H_

#include <functional>

#include "absl/status/statusor.h"
#include "core/quant/quantized_matrix.h"
#include "core/runtime/state_store.h"
#include "training/metrics.h"
#include "training/quant/model_numbers.h"
#include "training/quant/router_tuning.h"
#include "training/trainer.h"

namespace strata {

// Of TuningTrainer, for LearnCodes: its rate, and no decay of weights.
TuningOptions CodeLearningOptions();

// On the validation part of the corpus.
struct LearnedCodes {
  ValidationMetrics before;
  ValidationMetrics after;
  double share_moved = 0;
};

// Of all codes of `before`, how many are others in `after`.
double ShareMoved(const QuantizedParameters& before,
                  const QuantizedParameters& after);

// Takes the trainer's steps, of which `matrices` get what they learn; the
// trainer, which must not have taken a step, gets all numbers of `model`, an
// F32 store of its model, and nothing else of them changes. Groups whose scale
// is 0 stay. Of one matrix all formats have the same groups, and zeros or
// none. On the CPU bit for bit the same for any number of threads.
//
// Asks `stop`, which may be null as `progress` may, before each step. Returns
// CANCELLED if it says so, RESOURCE_EXHAUSTED if the backend's memory runs out,
// and the errors of Trainer::Step and Validate; `matrices` are then what they
// were.
absl::StatusOr<LearnedCodes> LearnCodes(Trainer& trainer,
                                        const StateStore& model,
                                        QuantizedParameters& matrices,
                                        const std::function<bool()>& stop,
                                        const StepsDone& progress = nullptr);

}  // namespace strata

#endif  // TRAINING_QUANT_CODE_LEARNING_H_
