#include "training/demo/demo.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "core/base/status_macros.h"
#include "core/checkpoint/model_files.h"
#include "core/model/config.h"
#include "core/model/count.h"
#include "core/model/sibling.h"
#include "core/tokenizer/utf8_stream.h"
#include "training/run/training_run.h"
#include "training/trainer.h"

namespace strata {
namespace {

using Clock = std::chrono::steady_clock;

// V2's share of the experts, to which the specification compares.
constexpr double kFlatActiveShare = 0.3;

// Of the time there is, what is planned for; the rest absorbs noise.
constexpr double kPlannedShare = 0.88;

// Steps before a measurement, in which memory is touched first, and of it.
constexpr int kColdSteps = 2;
constexpr int kTimedSteps = 5;

constexpr size_t kPromptBytes = 120;
constexpr int64_t kSampleTokens = 200;
constexpr int64_t kTimedSampleTokens = 16;
constexpr double kSaveSeconds = 3;  // Of both models' checkpoints, amply.

double SecondsSince(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

double Median(std::vector<double> values) {
  if (values.empty()) return 0;
  const auto middle = values.begin() + values.size() / 2;
  std::nth_element(values.begin(), middle, values.end());
  return *middle;
}

// Adds the model's costs, measured on a trainer that is then thrown away.
absl::Status Measure(const ModelConfig& model, const DemoOptions& options,
                     const Corpus& corpus, bool makes_samples,
                     DemoCosts& costs) {
  TrainConfig train = options.train;
  train.set_validation_tokens(train.batch_size() * train.seq_len());
  ASSIGN_OR_RETURN(std::unique_ptr<Trainer> trainer,
                   Trainer::Create(model, train, &corpus, options.num_threads));
  std::vector<double> seconds;
  for (int i = 0; i < kColdSteps + kTimedSteps; ++i) {
    ASSIGN_OR_RETURN(const StepMetrics metrics, trainer->Step());
    if (i >= kColdSteps) seconds.push_back(metrics.seconds);
  }
  costs.step_seconds += Median(std::move(seconds));

  // One batch of each domain stands for as many as there will be.
  RETURN_IF_ERROR(trainer->Validate().status());
  ASSIGN_OR_RETURN(const ValidationMetrics metrics, trainer->Validate());
  costs.validation_seconds +=
      metrics.seconds *
      std::max(1.0, static_cast<double>(options.train.validation_tokens()) /
                        train.validation_tokens());
  if (!makes_samples) return absl::OkStatus();

  const Clock::time_point start = Clock::now();
  ASSIGN_OR_RETURN(const std::string text,
                   options.continue_text(*trainer, std::string(1, '\0'),
                                         kTimedSampleTokens));
  costs.closing_seconds +=
      SecondsSince(start) / std::max<size_t>(1, text.size()) *
      (kSampleTokens + kPromptBytes) * corpus.domains.size();
  return absl::OkStatus();
}

// Both models of one seed, side by side.
class Pair {
 public:
  Pair(const DemoOptions& options, const Corpus& corpus, DemoReport& report,
       int seed_index)
      : options_(options),
        corpus_(corpus),
        report_(report),
        seed_index_(seed_index) {}

  absl::Status Start() {
    TrainConfig train = options_.train;
    train.set_steps(report_.planned_steps);
    train.set_seed(options_.train.seed() + seed_index_);
    // The checkpoints at the end are all that is wanted; there may be older
    // ones of a longer demo.
    train.set_checkpoint_interval(0);
    for (Side& side : sides_) {
      RunOptions run;
      run.model = side.model(report_).config;
      run.train = train;
      run.out = absl::StrCat(options_.out, "/", side.model(report_).name,
                             "-seed-", train.seed());
      run.overwrite = true;
      run.num_threads = options_.num_threads;
      ASSIGN_OR_RETURN(side.run, TrainingRun::Start(run, &corpus_));
      side.result.seed = train.seed();
    }
    return absl::OkStatus();
  }

  // Trains until all steps are done, `stop` says so, or the time is over;
  // validates; saves.
  absl::Status Train(double deadline_seconds, const DemoObserver& observer,
                     const std::function<bool()>& stop) {
    const Clock::time_point start = Clock::now();
    const bool may_end_early = !options_.fixed_steps && options_.num_seeds == 1;
    const DemoCosts& costs = report_.costs;
    while (!sides_[0].run->done()) {
      if (stop()) {
        report_.stopped = true;
        break;
      }
      RETURN_IF_ERROR(StepBoth(observer));
      const int64_t left =
          report_.planned_steps - sides_[0].run->trainer().step();
      const double per_step = StepSeconds();
      const double closing = costs.closing_seconds + costs.validation_seconds;
      const double seconds = SecondsSince(start);
      if (may_end_early && seconds + per_step + closing > deadline_seconds) {
        break;
      }
      // A validation on the way must not cost steps at the end.
      const bool in_time =
          options_.fixed_steps ||
          seconds + costs.validation_seconds + per_step * left + closing <=
              deadline_seconds;
      if (left > 0 && in_time && sides_[0].run->validation_due()) {
        RETURN_IF_ERROR(ValidateBoth(observer));
      }
    }
    report_.steps = sides_[0].run->trainer().step();
    if (!report_.stopped) RETURN_IF_ERROR(ValidateBoth(observer));
    for (Side& side : sides_) {
      ASSIGN_OR_RETURN(side.result.checkpoint, side.run->Save());
      ASSIGN_OR_RETURN(side.result.weights_hash,
                       HashWeights(side.result.checkpoint));
      side.result.tokens_per_second = Median(side.rates);
      side.model(report_).runs.push_back(side.result);
    }
    return absl::OkStatus();
  }

  absl::Status Sample() {
    report_.sampling = options_.sampling;
    const auto max_prompt = std::min<size_t>(
        kPromptBytes,
        std::max<int64_t>(1, report_.hierarchical.config.max_seq_len() / 2));
    for (const Domain& domain : corpus_.domains) {
      const std::string prompt = PromptOf(domain, max_prompt);
      ASSIGN_OR_RETURN(const std::string text,
                       options_.continue_text(sides_[0].run->trainer(), prompt,
                                              kSampleTokens));
      report_.samples.push_back({domain.name, ToUtf8(prompt), ToUtf8(text)});
    }
    return absl::OkStatus();
  }

 private:
  struct Side {
    DemoModel DemoReport::*which;
    std::unique_ptr<TrainingRun> run;
    DemoRun result;
    std::vector<double> rates;  // Tokens/s of each step.

    DemoModel& model(DemoReport& report) const { return report.*which; }
  };

  absl::Status StepBoth(const DemoObserver& observer) {
    std::vector<StepMetrics> both;
    for (Side& side : sides_) {
      ASSIGN_OR_RETURN(const StepMetrics metrics, side.run->Step());
      side.rates.push_back(metrics.tokens_per_second());
      side.result.train_loss = metrics.loss;
      both.push_back(metrics);
    }
    recent_seconds_.push_back(both[0].seconds + both[1].seconds);
    if (observer.on_step) observer.on_step(seed_index_, both[0], both[1]);
    return absl::OkStatus();
  }

  absl::Status ValidateBoth(const DemoObserver& observer) {
    for (Side& side : sides_) {
      ASSIGN_OR_RETURN(side.result.validation, side.run->Validate());
      side.result.curve.push_back(side.result.validation);
    }
    if (observer.on_validation) {
      observer.on_validation(seed_index_, sides_[0].result.validation,
                             sides_[1].result.validation);
    }
    return absl::OkStatus();
  }

  // The mean of the latest steps.
  double StepSeconds() const {
    const size_t n = std::min<size_t>(recent_seconds_.size(), 20);
    double sum = 0;
    for (size_t i = recent_seconds_.size() - n; i < recent_seconds_.size();
         ++i) {
      sum += recent_seconds_[i];
    }
    return sum / n;
  }

  const DemoOptions& options_;
  const Corpus& corpus_;
  DemoReport& report_;
  const int seed_index_;
  Side sides_[2] = {{&DemoReport::hierarchical, nullptr, {}, {}},
                    {&DemoReport::flat, nullptr, {}, {}}};
  std::vector<double> recent_seconds_;
};

absl::Status ChooseModels(const DemoOptions& options, DemoReport& report) {
  RETURN_IF_ERROR(Validate(options.model));
  if (!options.model.moe().has_hierarchical() ||
      NumDenseLayers(options.model) >= options.model.num_layers()) {
    return absl::InvalidArgumentError(absl::StrCat(
        "the model \"", options.model.name(),
        "\" has no hierarchical router; the demo compares one with a flat "
        "one and wants moe.hierarchical"));
  }
  const int64_t num_experts = NumRoutedExperts(options.model);
  const int64_t k =
      options.flat_k > 0
          ? options.flat_k
          : std::max<int64_t>(1, std::llround(kFlatActiveShare * num_experts));
  if (k > num_experts) {
    return absl::InvalidArgumentError(
        absl::StrCat("the flat model's experts a token are ", k,
                     "; want at most the ", num_experts, " that there are"));
  }
  report.hierarchical.name = "hierarchical";
  report.hierarchical.config = options.model;
  report.flat.name = "flat";
  report.flat.config = FlatSibling(options.model, k);
  for (DemoModel* model : {&report.hierarchical, &report.flat}) {
    model->parameters = CountParameters(model->config);
  }
  return absl::OkStatus();
}

absl::Status ChooseSteps(const DemoOptions& options, const Corpus& corpus,
                         DemoReport& report) {
  report.planned_steps = options.train.steps();
  if (options.fixed_steps) return absl::OkStatus();
  report.measured = true;
  report.costs.closing_seconds = kSaveSeconds;
  RETURN_IF_ERROR(Measure(report.hierarchical.config, options, corpus,
                          /*makes_samples=*/true, report.costs));
  RETURN_IF_ERROR(Measure(report.flat.config, options, corpus,
                          /*makes_samples=*/false, report.costs));
  const double seconds =
      options.minutes * 60 * kPlannedShare - SecondsSince(options.start);
  report.planned_steps =
      StepsWithin(seconds, report.costs, options.train.validation_interval(),
                  options.train.steps());
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<DemoReport> RunDemo(const DemoOptions& options,
                                   const Corpus& corpus,
                                   const DemoObserver& observer,
                                   const std::function<bool()>& stop) {
  DemoReport report;
  RETURN_IF_ERROR(ChooseModels(options, report));
  RETURN_IF_ERROR(ChooseSteps(options, corpus, report));
  DemoOptions run = options;
  // A warm-up made for the full length must not eat a short one.
  run.train.set_warmup_steps(
      std::min(run.train.warmup_steps(),
               std::max<int64_t>(1, report.planned_steps / 10)));
  if (observer.on_plan) observer.on_plan(report);

  for (int i = 0; i < options.num_seeds && !report.stopped; ++i) {
    const double used = i == 0 ? SecondsSince(options.start) : 0;
    Pair pair(run, corpus, report, i);
    RETURN_IF_ERROR(pair.Start());
    RETURN_IF_ERROR(pair.Train(options.minutes * 60 - used, observer, stop));
    if (i == 0 && !report.stopped) RETURN_IF_ERROR(pair.Sample());
  }
  TrainConfig train = run.train;
  train.set_steps(report.planned_steps);
  report.manifest = TrainingManifest(report.hierarchical.config, train, corpus);
  report.seconds = SecondsSince(options.start);
  return report;
}

std::string PromptOf(const Domain& domain, size_t max_bytes) {
  const std::string& text = domain.validation;
  const size_t middle = text.size() / 2;
  const size_t newline = text.find('\n', middle);
  size_t start = middle;
  if (newline != std::string::npos && newline + 1 + max_bytes < text.size()) {
    start = newline + 1;
  }
  std::string prompt = text.substr(start, max_bytes);
  // A text that ends within: what follows it.
  while (!prompt.empty() && prompt.find(kDocumentBoundary) != prompt.npos) {
    start += prompt.find(kDocumentBoundary) + 1;
    prompt = text.substr(start, max_bytes);
  }
  if (prompt.empty()) {  // It was the last text: its end.
    const size_t end = text.find_last_not_of(kDocumentBoundary);
    if (end == std::string::npos) return std::string(1, kDocumentBoundary);
    const size_t begin =
        std::max(end + 1 - std::min(end + 1, max_bytes),
                 text.find_last_of(kDocumentBoundary, end) + 1);
    return text.substr(begin, end + 1 - begin);
  }
  const size_t space = prompt.find_last_of(" \n");
  if (space != std::string::npos && space > prompt.size() / 2) {
    prompt.resize(space);
  }
  return prompt;
}

}  // namespace strata
