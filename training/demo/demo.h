// The demo's experiment: the hierarchical model and its flat sibling, of as
// many parameters, learn from the same bytes for the same number of steps.
//
//   for each seed:  step of one, step of the other, ...  validation of both
//   then            text of each domain, continued by the hierarchical model
//
// The models take their steps in turns, so that whatever else the machine does
// meets both alike, and a rate is the median over the steps.

#ifndef TRAINING_DEMO_DEMO_H_
#define TRAINING_DEMO_DEMO_H_

#include <chrono>
#include <cstdint>
#include <functional>
#include <string>
#include <string_view>

#include "absl/status/statusor.h"
#include "core/model/config.pb.h"
#include "training/config.pb.h"
#include "training/data/corpus.h"
#include "training/demo/report.h"
#include "training/metrics.h"
#include "training/trainer.h"

namespace strata {

// Continues the bytes of `prompt` by the model that `trainer` holds: at most
// `max_new_tokens`, fewer if the text ends.
using ContinueText = std::function<absl::StatusOr<std::string>(
    Trainer& trainer, std::string_view prompt, int64_t max_new_tokens)>;

struct DemoOptions {
  ModelConfig model;  // Hierarchical.
  // Its steps are the most that are taken; the number that fits is measured
  // unless `fixed_steps`.
  TrainConfig train;
  bool fixed_steps = false;
  int64_t flat_k = 0;  // Experts a token of the flat model; 0: 30 % of all.
  int num_seeds = 1;   // From train.seed on.
  // For a seed: training, validation, samples. The first one's includes what
  // has passed since `start`.
  double minutes = 4.5;
  std::chrono::steady_clock::time_point start =
      std::chrono::steady_clock::now();
  ContinueText continue_text;
  std::string sampling;  // How that draws, for the report.
  std::string out;       // Gets a folder for each model and seed.
  int num_threads = 1;
};

// What a caller may want to see as it happens; any may be null.
struct DemoObserver {
  // The number of steps stands.
  std::function<void(const DemoReport&)> on_plan;
  std::function<void(int seed_index, const StepMetrics& hierarchical,
                     const StepMetrics& flat)>
      on_step;
  std::function<void(int seed_index, const ValidationMetrics& hierarchical,
                     const ValidationMetrics& flat)>
      on_validation;
};

// Asks `stop` between steps; where it says true, saves both models and returns
// with report.stopped.
//
// If the machine becomes slower than it was measured, skips validations on the
// way; if that is not enough, and there is one seed and no fixed number of
// steps, ends with fewer steps: as many for either model.
//
// Returns INVALID_ARGUMENT if the model is not hierarchical, and the errors of
// TrainingRun.
absl::StatusOr<DemoReport> RunDemo(const DemoOptions& options,
                                   const Corpus& corpus,
                                   const DemoObserver& observer,
                                   const std::function<bool()>& stop);

// A piece of the domain's validation text to be continued: always the same, of
// at most `max_bytes`, from the start of a line to the end of a word where
// there are lines and words.
std::string PromptOf(const Domain& domain, size_t max_bytes);

}  // namespace strata

#endif  // TRAINING_DEMO_DEMO_H_
