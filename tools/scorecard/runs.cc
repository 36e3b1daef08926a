#include "tools/scorecard/runs.h"

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
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

absl::StatusOr<ScoredRun> ReadRun(const std::string& path) {
  ASSIGN_OR_RETURN(const std::string text, ReadFile(path));
  const nlohmann::json json =
      nlohmann::json::parse(text, nullptr, /*allow_exceptions=*/false);
  ScoredRun run;
  try {
    run.variant = json.at("variant");
    run.seed = json.at("seed");
    run.seconds = json.at("seconds");
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

// Shared by the workers.
class Study {
 public:
  Study(std::vector<Task> tasks, const Corpus& corpus,
        const StudyObserver& observer, const std::function<bool()>& stop)
      : tasks_(std::move(tasks)),
        corpus_(corpus),
        observer_(observer),
        stop_(stop) {
    for (const Task& task : tasks_) all_ += task.train.steps();
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
      ASSIGN_OR_RETURN(const StepMetrics step, trainer->Step());
      run.seconds += step.seconds;
      const std::lock_guard<std::mutex> lock(mutex_);
      over_ = over_ || stop_();
      if (over_) return absl::CancelledError("stopped");
      ++done_;
      if (observer_.on_step) observer_.on_step(done_, all_);
    }
    ASSIGN_OR_RETURN(const ValidationMetrics validation, trainer->Validate());
    run.validation = strata::ToJson(validation);
    run.bits_per_byte = validation.bits_per_byte;
    run.accuracy = validation.accuracy;
    run.experts = validation.experts;
    RETURN_IF_ERROR(
        WriteFileAtomically(task.path, strata::ToJson(run).dump(1) + "\n"));
    const std::lock_guard<std::mutex> lock(mutex_);
    if (observer_.on_run) observer_.on_run(run);
    return absl::OkStatus();
  }

  const std::vector<Task> tasks_;
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
      if (!std::filesystem::exists(task.path)) tasks.push_back(std::move(task));
    }
  }

  Study study(std::move(tasks), corpus, observer, stop);
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
          {"validation", run.validation}};
}

}  // namespace strata
