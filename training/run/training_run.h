// A training run: a trainer and the folder that it fills.
//
//   <out>/metrics.jsonl      training/run/metrics_log.h
//   <out>/step-000100/ ...   checkpoints, training/trainer.h
//
//   ASSIGN_OR_RETURN(auto run, TrainingRun::Start(options, &corpus));
//   ASSIGN_OR_RETURN(RunSummary summary, run->Finish(observer, stop));
//
// A run that was stopped, or killed, goes on from its last checkpoint as if it
// had never stopped; its metrics then have every step once.

#ifndef TRAINING_RUN_TRAINING_RUN_H_
#define TRAINING_RUN_TRAINING_RUN_H_

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "core/base/folder_lock.h"
#include "core/model/config.pb.h"
#include "core/parallel/mesh.h"
#include "core/parallel/pipeline_schedule.h"
#include "nlohmann/json.hpp"
#include "training/balance/balance_rule.h"
#include "training/balance/gate_use.h"
#include "training/checkpoint/checkpoint_saver.h"
#include "training/config.pb.h"
#include "training/data/corpus.h"
#include "training/metrics.h"
#include "training/routing_recording.h"
#include "training/run/metrics_log.h"
#include "training/run/speed_watch.h"
#include "training/run/training_monitor.h"
#include "training/trace/execution_recorder.h"
#include "training/trainer.h"

namespace strata {

// An execution trace of some steps: PREFIX.<rank>.et.
struct TraceOptions {
  // That the backend and the mesh's world are observed by; null: none.
  ExecutionRecorder* recorder = nullptr;
  std::string prefix;
  int64_t after = 0;  // Steps of this run before the first that is recorded.
  int64_t steps = 1;
};

struct RunOptions {
  ModelConfig model;
  TrainConfig train;
  std::string out;
  std::string resume_from;  // A checkpoint folder; empty to begin anew.
  bool overwrite = false;   // Replace a run that `out` holds.
  RecordOptions record;     // A routing trace of the steps.
  RouteOptions route;       // Replays such a trace, or balances.
  TraceOptions trace;
  int num_threads = 1;
  BackendFactory backend = nullptr;  // Null: the CPU.
  // The ranks that train together (TrainerOptions). The first one has the
  // folder, and decides when to validate, save and stop. No routing is
  // replayed.
  const Mesh* mesh = nullptr;
  PipelineKind schedule = PipelineKind::k1F1B;
  int chunks = 0;
  bool shard_optimizer = false;
  bool overlap_sums = false;
  bool overlap_rows = false;
  BalanceRule balance;  // Experts move between ranks; each move is an event.
};

// What a caller may want to see as it happens; any may be null.
struct RunObserver {
  std::function<void(const StepMetrics&)> on_step;
  std::function<void(const ValidationMetrics&)> on_validation;
  std::function<void(const std::string& path)> on_checkpoint;  // That counts.
  // Checkpoints that could not be saved ("kind": "checkpoint", with "error"),
  // alarms and rebalancings (training/run/training_monitor.h), and moves of
  // experts: {"rebalance": "moved", ...} with what ExpertMove has.
  std::function<void(const nlohmann::json& event)> on_event;
};

struct RunSummary {
  bool stopped = false;    // By `stop`, before the last step.
  std::string checkpoint;  // The last one.
  std::optional<StepMetrics> last_step;
  std::optional<ValidationMetrics> validation;  // The last one.
};

class TrainingRun {
 public:
  // Makes the trainer, loads the checkpoint if one is resumed, and then opens
  // the folder; until there, nothing on disk changes. The folder is locked for
  // the run's life. `corpus` must outlive the run.
  //
  // Returns UNAVAILABLE if another process, or run, is training into `out`.
  // Returns ALREADY_EXISTS if `out` holds a run and is neither resumed nor to
  // be overwritten; otherwise the errors of Trainer::Create, Resume and
  // StartRecording.
  static absl::StatusOr<std::unique_ptr<TrainingRun>> Start(
      const RunOptions& options, const Corpus* corpus);

  // One step, logged with the monitor's figures, and what the monitor tells.
  //
  // On error the message ends with where the last good checkpoint is.
  absl::StatusOr<StepMetrics> Step();
  // What the monitor told since it was last asked, as logged.
  std::vector<nlohmann::json> TakeEvents() {
    return std::exchange(events_, {});
  }
  bool done() const { return trainer_->done(); }

  // Whether a validation is due after the steps done and not yet logged.
  bool validation_due() const;
  absl::StatusOr<ValidationMetrics> Validate();

  // Writes a checkpoint unless this step has one; returns its path.
  absl::StatusOr<std::string> Save();
  // The same while steps go on: begins one, after that which is under way.
  absl::Status BeginSave();
  // How the one that was begun went, if it has ended, as logged. One that
  // failed is an event, and no error: the checkpoints before it stay.
  absl::StatusOr<std::optional<SaveReport>> PollSave(bool wait);
  bool checkpoint_due() const;

  // All steps that are left, with validations and checkpoints as they fall due
  // and a checkpoint at the end; closes the routing trace. Asks `stop` between
  // steps; where it says true, saves and returns. That the last checkpoint
  // could not be saved is an error.
  absl::StatusOr<RunSummary> Finish(const RunObserver& observer,
                                    const std::function<bool()>& stop);

  Trainer& trainer() { return *trainer_; }
  const nlohmann::json& manifest() const { return manifest_; }

 private:
  // What comes next, as the first rank decides it.
  struct Turn {
    int32_t validates = 0;
    int32_t stops = 0;
    int32_t saves = 0;
  };

  TrainingRun(const RunOptions& options, std::unique_ptr<Trainer> trainer,
              std::unique_ptr<RoutingRecording> recording,
              nlohmann::json manifest, std::optional<MetricsLog> log)
      : options_(options),
        trainer_(std::move(trainer)),
        recording_(std::move(recording)),
        manifest_(std::move(manifest)),
        log_(std::move(log)),
        monitor_(NumExperts(trainer_->meter()),
                 options.mesh != nullptr ? options.mesh->shape().ep : 1,
                 DefaultTrainingRules(), options.balance.spare),
        last_checkpoint_(options.resume_from),
        first_step_(trainer_->step()) {}

  absl::Status Log(const nlohmann::json& line);
  // Of the steps that are to be traced the first, and the last.
  absl::Status BeginTrace();
  absl::Status EndTrace();
  // `own`: SpeedWatch::AfterStep.
  absl::Status LogStep(const StepMetrics& metrics,
                       const std::optional<std::vector<double>>& own);
  // Tells the observer what has come of the checkpoint under way.
  absl::Status Watch(const RunObserver& observer, bool wait);
  // Makes `turn` that of the first rank.
  absl::Status Agree(Turn& turn);
  absl::Status WithLastCheckpoint(const absl::Status& status) const;

  std::optional<FolderLock> lock_;
  RunOptions options_;
  std::unique_ptr<Trainer> trainer_;
  std::unique_ptr<RoutingRecording> recording_;  // Null if there is none.
  nlohmann::json manifest_;
  std::optional<MetricsLog> log_;  // The first rank's.
  TrainingMonitor monitor_;
  std::optional<SpeedWatch> speed_;  // Of several ranks.
  std::vector<nlohmann::json> events_;
  std::string last_checkpoint_;
  int64_t first_step_ = 0;   // Done before this run.
  int64_t saved_step_ = -1;  // Or being saved.
  absl::Status last_save_;   // How the last that has ended went.
};

// The manifest of what `model` learns from `corpus`: with the configs, the
// seeds and the sources of the data.
nlohmann::json TrainingManifest(const ModelConfig& model,
                                const TrainConfig& train, const Corpus& corpus);

// Removes metrics and checkpoints of the run in `out`, and nothing else there.
absl::Status RemoveRun(const std::string& out);

}  // namespace strata

#endif  // TRAINING_RUN_TRAINING_RUN_H_
