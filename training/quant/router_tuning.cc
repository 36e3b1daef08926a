#include "training/quant/router_tuning.h"

#include <cstdint>
#include <functional>
#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "core/base/status_macros.h"
#include "core/checkpoint/load_model.h"
#include "core/checkpoint/model_files.h"
#include "core/model/config.pb.h"
#include "core/quant/packed_parameters.h"
#include "core/runtime/state_store.h"
#include "training/config.pb.h"
#include "training/data/corpus.h"
#include "training/metrics.h"
#include "training/quant/model_numbers.h"
#include "training/run/model_folder.h"
#include "training/trainer.h"

namespace strata {
namespace {

// A model that was trained with a seed saw the text of that seed.
constexpr uint64_t kOtherText = 1000;

}  // namespace

absl::StatusOr<std::unique_ptr<Trainer>> TuningTrainer(
    const std::string& folder, const Corpus& corpus,
    const TuningOptions& options) {
  ASSIGN_OR_RETURN(ModelConfig model, LoadModelConfig(folder));
  if (model.moe().has_hierarchical()) {
    // As it is evaluated: training that begins elsewhere ended there.
    model.mutable_moe()->mutable_hierarchical()->clear_tau_start();
    model.mutable_moe()->mutable_hierarchical()->clear_tau_anneal();
  }
  ASSIGN_OR_RETURN(TrainConfig train, TrainConfigOrDefault(folder, model));
  train.set_steps(options.steps);
  train.set_warmup_steps(options.steps / 10);
  train.set_learning_rate(options.learning_rate);
  if (!options.decays_weights) train.set_weight_decay(0);
  train.set_seed(options.seed + kOtherText);
  train.set_validation_tokens(options.validation_tokens);
  train.set_state_precision(TrainConfig::FP32);  // Of a GPU's run, too.
  TrainerOptions on;
  on.backend = options.backend;
  ASSIGN_OR_RETURN(
      std::unique_ptr<Trainer> trainer,
      Trainer::Create(model, train, &corpus, options.num_threads, on));
  RETURN_IF_ERROR(LoadModelWeights(folder, model, trainer->state()));
  return trainer;
}

absl::Status CheckHasGates(const Trainer& trainer) {
  if (!NumbersOf(trainer.state(), IsOfGate).empty()) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat("the model \"", trainer.model_config().name(),
                   "\" has no router to be tuned; want a mixture of experts"));
}

absl::Status TuneGates(Trainer& trainer, const std::function<bool()>& stop,
                       const StepsDone& progress) {
  ASSIGN_OR_RETURN(
      KeptNumbers kept,
      KeptNumbers::Create(trainer.state(), [](const std::string& name) {
        return !IsOfGate(name);
      }));
  while (!trainer.done()) {
    if (stop && stop()) {
      return absl::CancelledError(absl::StrCat(
          "stopped after ", trainer.step(), " of ",
          trainer.train_config().steps(), " steps that tune the router"));
    }
    RETURN_IF_ERROR(trainer.Step().status());
    RETURN_IF_ERROR(kept.Restore());
    if (progress) progress(trainer.step(), trainer.train_config().steps());
  }
  return absl::OkStatus();
}

absl::StatusOr<TunedRouter> TuneRouter(Trainer& trainer, StateStore& model,
                                       const std::function<bool()>& stop,
                                       const StepsDone& progress) {
  CopyNumbers(model, trainer.state());
  TunedRouter tuned;
  ASSIGN_OR_RETURN(tuned.before, trainer.Validate());
  RETURN_IF_ERROR(TuneGates(trainer, stop, progress));
  ASSIGN_OR_RETURN(tuned.after, trainer.Validate());
  Put(NumbersOf(trainer.state(), IsOfGate), model);
  return tuned;
}

}  // namespace strata
