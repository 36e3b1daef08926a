#include "tools/scorecard/runs.h"

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <system_error>
#include <thread>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "core/base/files.h"
#include "core/base/sha256.h"
#include "core/base/status_macros.h"
#include "core/model/config.h"
#include "nlohmann/json.hpp"
#include "tools/scorecard/cold_start.h"
#include "tools/scorecard/redundancy.h"
#include "training/config.h"
#include "training/trainer.h"

namespace strata {
namespace {

struct Task {
  const Variant* variant = nullptr;
  TrainConfig train;
  std::string path;
};

std::string PathOf(const Variant& variant, const TrainConfig& train,
                   const Corpus& corpus, const std::string& folder) {
  const std::string hash = Sha256Hex(
      absl::StrCat(ToJson(variant.config), ToJson(train), corpus.sha256));
  return absl::StrCat(folder, "/", variant.name, "-seed-", train.seed(), "-",
                      hash.substr(0, 12), ".json");
}

nlohmann::json ToJson(const ColdStart& cold_start) {
  return {{"max_steps", cold_start.max_steps},
          {"steps", cold_start.Steps()},
          {"mean_steps", cold_start.MeanSteps()},
          {"load_over_mean", cold_start.load}};
}

nlohmann::json ToJson(const Redundancy& redundancy,
                      const RedundancyOptions& options) {
  return {{"cka", redundancy.cka},
          {"num_pairs", redundancy.num_pairs},
          {"rows_per_pair", options.rows}};
}

absl::StatusOr<ScoredRun> ReadRun(const std::string& path) {
  ASSIGN_OR_RETURN(const std::string text, ReadFile(path));
  const nlohmann::json json =
      nlohmann::json::parse(text, nullptr, /*allow_exceptions=*/false);
  ScoredRun run;
  try {
    run.variant = json.at("variant");
    run.seed = json.at("seed");
    run.seconds = json.at("seconds");
    run.train_flops_per_token = json.at("train_flops_per_token");
    run.probes = json.at("probes");
    if (!run.probes.is_null()) {
      run.cold_start_steps = run.probes.at("cold_start").at("mean_steps");
      run.redundancy = run.probes.at("redundancy").at("cka");
    }
    run.validation = json.at("validation");
    run.bits_per_byte = run.validation.at("bits_per_byte");
    run.accuracy = run.validation.at("accuracy");
    const nlohmann::json& experts = run.validation.at("experts");
    run.experts.active_share = experts.at("active_share");
    run.experts.flops_per_token = experts.at("flops_per_token");
    run.experts.gini = experts.at("gini");
    run.experts.utilisation = experts.at("utilisation");
    run.experts.starved_share = experts.at("starved_share");
  } catch (const nlohmann::json::exception&) {
    return absl::DataLossError(absl::StrCat(
        path, " is no run of a scorecard; want it removed, to be made again"));
  }
  return run;
}

// Whether the run of `task` is there, with what is wanted of it.
absl::StatusOr<bool> IsDone(const Task& task) {
  if (!std::filesystem::exists(task.path)) return false;
  if (!task.variant->probe) return true;
  ASSIGN_OR_RETURN(const ScoredRun run, ReadRun(task.path));
  return !run.probes.is_null();
}

// Shared by the workers.
class Study {
 public:
  Study(std::vector<Task> tasks, const StudyOptions& options,
        const Corpus& corpus, const StudyObserver& observer,
        const std::function<bool()>& stop)
      : tasks_(std::move(tasks)),
        options_(options),
        corpus_(corpus),
        observer_(observer),
        stop_(stop) {
    for (const Task& task : tasks_) {
      all_ += task.train.steps();
      if (task.variant->probe) all_ += options_.cold_start_steps;
    }
  }

  // Takes tasks until there are none, or one failed.
  void Work() {
    for (size_t i; (i = next_++) < tasks_.size();) {
      const absl::Status status = Run(tasks_[i]);
      if (status.ok()) continue;
      const std::lock_guard<std::mutex> lock(mutex_);
      if (status_.ok()) status_ = status;
      over_ = true;
      return;
    }
  }
  const absl::Status& status() const { return status_; }

 private:
  absl::Status Run(const Task& task) {
    ASSIGN_OR_RETURN(const std::unique_ptr<Trainer> trainer,
                     Trainer::Create(task.variant->config, task.train, &corpus_,
                                     /*num_threads=*/1));
    ScoredRun run;
    run.variant = task.variant->name;
    run.seed = task.train.seed();
    while (!trainer->done()) {
      if (task.variant->probe && trainer->step() == task.train.steps() / 2) {
        ASSIGN_OR_RETURN(const ColdStart cold_start,
                         ProbeColdStart(task, *trainer));
        run.cold_start_steps = cold_start.MeanSteps();
        run.probes["cold_start"] = ToJson(cold_start);
      }
      ASSIGN_OR_RETURN(const StepMetrics step, trainer->Step());
      run.seconds += step.seconds;
      run.train_flops_per_token += step.experts.flops_per_token /
                                   static_cast<double>(task.train.steps());
      if (CountStep()) return absl::CancelledError("stopped");
    }
    ASSIGN_OR_RETURN(const ValidationMetrics validation, trainer->Validate());
    run.validation = strata::ToJson(validation);
    run.bits_per_byte = validation.bits_per_byte;
    run.accuracy = validation.accuracy;
    run.experts = validation.experts;
    if (task.variant->probe) {
      ASSIGN_OR_RETURN(
          const Redundancy redundancy,
          MeasureRedundancy(*trainer, corpus_, options_.redundancy));
      run.redundancy = redundancy.cka;
      run.probes["redundancy"] = ToJson(redundancy, options_.redundancy);
    }
    RETURN_IF_ERROR(
        WriteFileAtomically(task.path, strata::ToJson(run).dump(1) + "\n"));
    const std::lock_guard<std::mutex> lock(mutex_);
    if (observer_.on_run) observer_.on_run(run);
    return absl::OkStatus();
  }

  // On a copy of the trainer, which goes on as if nothing had been.
  absl::StatusOr<ColdStart> ProbeColdStart(const Task& task, Trainer& trainer) {
    const std::string folder = absl::StrCat(task.path, ".probe");
    ASSIGN_OR_RETURN(const std::string checkpoint,
                     trainer.SaveCheckpoint(folder, nlohmann::json::object()));
    ASSIGN_OR_RETURN(const std::unique_ptr<Trainer> copy,
                     Trainer::Create(task.variant->config, task.train, &corpus_,
                                     /*num_threads=*/1));
    RETURN_IF_ERROR(copy->Resume(checkpoint));
    std::error_code ignored;
    std::filesystem::remove_all(folder, ignored);
    return MeasureColdStart(*copy, options_.cold_start_steps,
                            [this] { return CountStep(); });
  }

  // Tells the observer of a step; whether the study is over.
  bool CountStep() {
    const std::lock_guard<std::mutex> lock(mutex_);
    over_ = over_ || stop_();
    if (over_) return true;
    ++done_;
    if (observer_.on_step) observer_.on_step(done_, all_);
    return false;
  }

  const std::vector<Task> tasks_;
  const StudyOptions& options_;
  const Corpus& corpus_;
  const StudyObserver& observer_;
  const std::function<bool()>& stop_;
  std::atomic<size_t> next_{0};
  std::mutex mutex_;
  // Guarded by mutex_:
  int64_t done_ = 0;
  int64_t all_ = 0;
  bool over_ = false;
  absl::Status status_;
};

}  // namespace

absl::StatusOr<std::vector<ScoredRun>> TrainAll(
    const std::vector<Variant>& variants, const StudyOptions& options,
    const Corpus& corpus, const StudyObserver& observer,
    const std::function<bool()>& stop) {
  RETURN_IF_ERROR(MakeFolders(options.folder));
  std::vector<Task> tasks;
  std::vector<std::string> paths;
  // By seed first, so that a study that is stopped has whole seeds.
  for (const uint64_t seed : options.seeds) {
    for (const Variant& variant : variants) {
      Task task = {&variant, options.train, ""};
      task.train.set_seed(seed);
      task.path = PathOf(variant, task.train, corpus, options.folder);
      paths.push_back(task.path);
      ASSIGN_OR_RETURN(const bool is_done, IsDone(task));
      if (!is_done) tasks.push_back(std::move(task));
    }
  }

  Study study(std::move(tasks), options, corpus, observer, stop);
  std::vector<std::thread> workers;
  for (int i = 1; i < options.num_jobs; ++i) {
    workers.emplace_back([&study] { study.Work(); });
  }
  study.Work();
  for (std::thread& worker : workers) worker.join();
  RETURN_IF_ERROR(study.status());

  std::vector<ScoredRun> runs;
  for (const std::string& path : paths) {
    ASSIGN_OR_RETURN(ScoredRun run, ReadRun(path));
    runs.push_back(std::move(run));
  }
  return runs;
}

nlohmann::json ToJson(const ScoredRun& run) {
  return {{"variant", run.variant},
          {"seed", run.seed},
          {"seconds", run.seconds},
          {"train_flops_per_token", run.train_flops_per_token},
          {"probes", run.probes},
          {"validation", run.validation}};
}

}  // namespace strata
