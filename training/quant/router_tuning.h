// The router trained again on a model that was quantised: gates alone, with all
// else in place as it is.
//
//   quantised numbers, widened ---> trainer: a step of training, then all but
//        ^                          the gates put back; so often
//        |                            |
//        +---- gates' numbers --------+
//
// Gates stay F32 in a quantised model, so what they learn is not rounded.

#ifndef TRAINING_QUANT_ROUTER_TUNING_H_
#define TRAINING_QUANT_ROUTER_TUNING_H_

#include <cstdint>
#include <functional>
#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "core/runtime/backend_factory.h"
#include "core/runtime/state_store.h"
#include "training/data/corpus.h"
#include "training/metrics.h"
#include "training/quant/model_numbers.h"
#include "training/trainer.h"

namespace strata {

struct TuningOptions {
  int64_t steps = 60;
  double learning_rate = 5e-4;  // At its peak, behind a tenth of the steps.
  // Of the text; training with the same seed saw other.
  uint64_t seed = 1;
  int64_t validation_tokens = 16384;  // A domain.
  bool decays_weights = true;         // As training does.
  int num_threads = 1;
  BackendFactory backend = nullptr;  // Null: the CPU, with num_threads.
};

// A trainer of the model in `folder`, its weights widened to F32, for so many
// steps. All else is as it was trained; where the folder does not say, as
// TrainConfigOrDefault has it. `corpus`, in the model's tokens, must outlive
// it.
//
// Returns the errors of loading and of Trainer::Create, as for a corpus that is
// too short.
absl::StatusOr<std::unique_ptr<Trainer>> TuningTrainer(
    const std::string& folder, const Corpus& corpus,
    const TuningOptions& options);

// Returns INVALID_ARGUMENT if the model has no gates.
absl::Status CheckHasGates(const Trainer& trainer);

// Takes the trainer's steps; of the model only gates change, their parameters
// and what they keep of their loads.
//
// Asks `stop`, which may be null as `progress` may, before each. Returns
// CANCELLED if it says so, and the errors of Trainer::Step.
absl::Status TuneGates(Trainer& trainer, const std::function<bool()>& stop,
                       const StepsDone& progress = nullptr);

// On the validation part of the corpus.
struct TunedRouter {
  ValidationMetrics before;
  ValidationMetrics after;
};

// Tunes the gates of `model`, an F32 store of the trainer's model; the trainer,
// which must not have taken a step, gets all its numbers, and it the gates'.
//
// Returns the errors of TuneGates and of Trainer::Validate; the gates of
// `model` are then what they were.
absl::StatusOr<TunedRouter> TuneRouter(Trainer& trainer, StateStore& model,
                                       const std::function<bool()>& stop,
                                       const StepsDone& progress = nullptr);

}  // namespace strata

#endif  // TRAINING_QUANT_ROUTER_TUNING_H_
