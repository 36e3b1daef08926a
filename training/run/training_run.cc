#include "training/run/training_run.h"

#include <cstdint>
#include <filesystem>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <system_error>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/time/clock.h"
#include "absl/types/span.h"
#include "core/base/files.h"
#include "core/base/folder_lock.h"
#include "core/base/manifest.h"
#include "core/base/sha256.h"
#include "core/base/status_macros.h"
#include "core/checkpoint/model_files.h"
#include "core/checkpoint/shards/shard_index.h"
#include "core/checkpoint/weight_files.h"
#include "core/model/config.h"
#include "core/model/gate.h"
#include "core/monitor/rank_speed.h"
#include "core/parallel/communicator.h"
#include "core/parallel/mesh.h"
#include "core/trace/routing_trace.pb.h"
#include "nlohmann/json.hpp"
#include "training/balance/gate_use.h"
#include "training/checkpoint/checkpoint_saver.h"
#include "training/config.h"
#include "training/metrics.h"
#include "training/routing_recording.h"
#include "training/run/metrics_log.h"
#include "training/run/speed_watch.h"
#include "training/run/training_monitor.h"
#include "training/trainer.h"

namespace strata {
namespace {

namespace fs = std::filesystem;

std::string MetricsPath(const std::string& out) {
  return absl::StrCat(out, "/", kMetricsFile);
}

bool HoldsRun(const std::string& out) {
  std::error_code ignored;
  return fs::exists(MetricsPath(out), ignored) || FindCheckpoint(out).ok();
}

absl::Status CheckForMesh(const RunOptions& options) {
  if (options.route.source == RouteSource::kReplay) {
    return absl::UnimplementedError(
        "a routing trace is replayed by one rank so far; leave out "
        "--replay-routing");
  }
  if (options.record.tokens && options.balance.slots().movable) {
    return absl::UnimplementedError(
        "each token's choices are not recorded while experts move; leave out "
        "--record-tokens or --rebalance");
  }
  return absl::OkStatus();
}

// Of the weights, which were held to the sums that their index lists.
absl::StatusOr<std::string> HashOf(const std::string& checkpoint) {
  std::error_code ignored;
  if (fs::exists(absl::StrCat(checkpoint, "/", kWeightsFile), ignored)) {
    return HashWeights(checkpoint);
  }
  ASSIGN_OR_RETURN(
      const ShardIndex index,
      ReadShardIndex(absl::StrCat(checkpoint, "/", kWeightsIndexFile)));
  return index.files.empty() ? HashWeights(checkpoint) : ListedHash(index);
}

bool Due(int64_t interval, int64_t step) {
  return interval > 0 && step > 0 && step % interval == 0;
}

}  // namespace

nlohmann::json TrainingManifest(const ModelConfig& model,
                                const TrainConfig& train,
                                const Corpus& corpus) {
  const std::string model_json = ToJson(model);
  const std::string train_json = ToJson(train);
  Manifest manifest = NewManifest();
  manifest.config_hash = Sha256Hex(absl::StrCat(model_json, train_json));
  manifest.data_hash = corpus.sha256;
  manifest.seeds["train"] = train.seed();
  nlohmann::json json = ToJson(manifest);
  json["model"] = nlohmann::json::parse(model_json);
  json["train"] = nlohmann::json::parse(train_json);
  json["data_sources"] = corpus.sources;
  if (corpus.tokenizer) json["tokenizer_sha256"] = corpus.tokenizer->sha256;
  return json;
}

absl::Status RemoveRun(const std::string& out) {
  std::error_code error;
  fs::remove(MetricsPath(out), error);
  if (error) return FileError(error.value(), "remove", MetricsPath(out));
  while (true) {
    const absl::StatusOr<std::string> checkpoint = FindCheckpoint(out);
    if (!checkpoint.ok() || *checkpoint == out) return absl::OkStatus();
    fs::remove_all(*checkpoint, error);
    if (error) return FileError(error.value(), "remove", *checkpoint);
  }
}

absl::StatusOr<std::unique_ptr<TrainingRun>> TrainingRun::Start(
    const RunOptions& options, const Corpus* corpus) {
  const bool resumes = !options.resume_from.empty();
  if (options.mesh != nullptr) RETURN_IF_ERROR(CheckForMesh(options));
  std::optional<FolderLock> lock;
  const auto take_folder = [&]() -> absl::Status {
    ASSIGN_OR_RETURN(lock, FolderLock::Take(options.out));
    if (resumes || options.overwrite || !HoldsRun(options.out)) {
      return absl::OkStatus();
    }
    return absl::AlreadyExistsError(absl::StrCat(
        options.out,
        " holds a run already; want --resume to go on with it, --overwrite to "
        "replace it, or another --out"));
  };
  std::error_code ignored;
  const bool exists = fs::is_directory(options.out, ignored);
  const bool is_first =
      options.mesh == nullptr || options.mesh->world().rank() == 0;
  if (exists && is_first) RETURN_IF_ERROR(take_folder());
  ASSIGN_OR_RETURN(
      std::unique_ptr<Trainer> trainer,
      Trainer::Create(
          options.model, options.train, corpus, options.num_threads,
          {options.record.tokens, options.route, RoutingTraceHeader::TRAIN,
           options.backend, options.mesh, options.schedule, options.chunks,
           options.shard_optimizer, options.overlap_sums, options.overlap_rows,
           options.balance}));
  nlohmann::json manifest =
      TrainingManifest(options.model, options.train, *corpus);
  if (options.route.source != RouteSource::kGate) {
    manifest["route"] = Describe(options.route);
  }
  if (resumes) {
    RETURN_IF_ERROR(trainer->Resume(options.resume_from));
    if (is_first) {
      ASSIGN_OR_RETURN(manifest["weights_hash"], HashOf(options.resume_from));
    }
  }

  const int64_t steps_left = options.train.steps() - trainer->step();
  if (options.trace.recorder != nullptr &&
      options.trace.after + options.trace.steps > steps_left) {
    return absl::InvalidArgumentError(absl::StrCat(
        "--trace-after and --trace-steps are ", options.trace.after, " and ",
        options.trace.steps, ", and ", steps_left, " steps are left"));
  }

  const auto make = [&](std::unique_ptr<RoutingRecording> recording,
                        std::optional<MetricsLog> log) {
    auto run = std::unique_ptr<TrainingRun>(
        new TrainingRun(options, std::move(trainer), std::move(recording),
                        std::move(manifest), std::move(log)));
    run->lock_ = std::move(lock);
    if (resumes && fs::equivalent(fs::path(options.resume_from).parent_path(),
                                  options.out, ignored)) {
      run->saved_step_ = run->trainer_->step();
    }
    return run;
  };
  if (is_first) {
    RETURN_IF_ERROR(MakeFolders(options.out));
    if (!exists) RETURN_IF_ERROR(take_folder());
  }
  // Before the old run goes: a trace that may not be replaced is an error.
  std::unique_ptr<RoutingRecording> recording;
  if (!options.record.path.empty()) {
    ASSIGN_OR_RETURN(recording, trainer->StartRecording(
                                    options.record, RoutingTraceHeader::TRAIN,
                                    /*weights_hash=*/""));
  }
  if (!is_first) return make(std::move(recording), /*log=*/std::nullopt);
  if (!resumes) RETURN_IF_ERROR(RemoveRun(options.out));
  const std::string path = MetricsPath(options.out);
  ASSIGN_OR_RETURN(MetricsLog log,
                   resumes ? MetricsLog::Resume(path, trainer->step(), manifest)
                           : MetricsLog::Create(path, manifest));
  return make(std::move(recording), std::move(log));
}

namespace {

std::string SlowRankText(const MeshShape& mesh,
                         const RankSpeed::Slowest& slowest,
                         const std::string& host) {
  return absl::StrFormat(
      "rank %d on %s works %.1f times as long as %s", slowest.rank, host,
      slowest.times,
      mesh.dp * mesh.ep > 1 ? "the others of its stage" : "it did");
}

}  // namespace

absl::StatusOr<StepMetrics> TrainingRun::Step() {
  RETURN_IF_ERROR(BeginTrace());
  absl::StatusOr<StepMetrics> metrics = trainer_->Step(recording_.get());
  if (!metrics.ok()) return WithLastCheckpoint(metrics.status());
  const absl::Status traced = EndTrace();
  if (!traced.ok()) return WithLastCheckpoint(traced);
  std::optional<std::vector<double>> own;
  if (options_.mesh != nullptr) {
    if (!speed_) {
      ASSIGN_OR_RETURN(speed_, SpeedWatch::Create(*options_.mesh));
    }
    ASSIGN_OR_RETURN(own, speed_->AfterStep(*metrics));
  }
  const absl::Status logged = LogStep(*metrics, own);
  if (!logged.ok()) return WithLastCheckpoint(logged);
  return metrics;
}

absl::Status TrainingRun::BeginTrace() {
  const TraceOptions& trace = options_.trace;
  if (trace.recorder == nullptr || trace.recorder->is_recording() ||
      trainer_->step() != first_step_ + trace.after) {
    return absl::OkStatus();
  }
  // Traces of ranks begin together.
  if (options_.mesh != nullptr) {
    RETURN_IF_ERROR(options_.mesh->world().Barrier());
  }
  trace.recorder->Start();
  return absl::OkStatus();
}

absl::Status TrainingRun::EndTrace() {
  const TraceOptions& trace = options_.trace;
  if (trace.recorder == nullptr || !trace.recorder->is_recording() ||
      trainer_->step() != first_step_ + trace.after + trace.steps) {
    return absl::OkStatus();
  }
  trace.recorder->Stop();
  return trace.recorder->Write(trace.prefix);
}

absl::Status TrainingRun::LogStep(
    const StepMetrics& metrics, const std::optional<std::vector<double>>& own) {
  if (!log_) return absl::OkStatus();
  nlohmann::json line = ToJson(metrics);
  line["monitor"] =
      monitor_.Observe(metrics, GatesOf(trainer_->meter()), absl::Now());
  RankSpeed::Slowest slowest;
  if (own) {
    slowest = monitor_.ObserveRanks(options_.mesh->shape(), *own, absl::Now());
    line["monitor"]["slowest_rank"] = {{"rank", slowest.rank},
                                       {"host", speed_->host(slowest.rank)},
                                       {"times", slowest.times}};
  }
  RETURN_IF_ERROR(Log(line));
  for (nlohmann::json event : monitor_.TakeEvents()) {
    event["kind"] = event.contains("alarm") ? "alarm" : "rebalance";
    event["step"] = metrics.step;
    if (event.value("alarm", "") == kSlowRankAlarm &&
        event["state"] == "raised") {
      event["rank"] = slowest.rank;
      event["host"] = speed_->host(slowest.rank);
      event["message"] = SlowRankText(options_.mesh->shape(), slowest,
                                      speed_->host(slowest.rank));
    }
    RETURN_IF_ERROR(Log(event));
    events_.push_back(std::move(event));
  }
  if (metrics.moves.empty()) return absl::OkStatus();
  monitor_.SetPlacements(trainer_->balancer()->placements());
  for (const ExpertMove& move : metrics.moves) {
    nlohmann::json event = ToJson(move);
    event["kind"] = "rebalance";
    event["rebalance"] = "moved";
    event["step"] = metrics.step;
    RETURN_IF_ERROR(Log(event));
    events_.push_back(std::move(event));
  }
  return absl::OkStatus();
}

absl::Status TrainingRun::Log(const nlohmann::json& line) {
  return log_ ? log_->Append(line) : absl::OkStatus();
}

absl::Status TrainingRun::Agree(Turn& turn) {
  if (options_.mesh == nullptr) return absl::OkStatus();
  int32_t turns[] = {turn.validates, turn.stops, turn.saves};
  RETURN_IF_ERROR(options_.mesh->world().Broadcast(
      PayloadOf(absl::MakeSpan(turns)), /*root=*/0));
  turn = {turns[0], turns[1], turns[2]};
  return absl::OkStatus();
}

absl::Status TrainingRun::WithLastCheckpoint(const absl::Status& status) const {
  return absl::Status(
      status.code(),
      absl::StrCat(status.message(), "; ",
                   last_checkpoint_.empty()
                       ? "no checkpoint had been saved"
                       : absl::StrCat("the last good checkpoint is ",
                                      last_checkpoint_)));
}

bool TrainingRun::validation_due() const {
  const int64_t step = trainer_->step();
  return (done() || Due(options_.train.validation_interval(), step)) &&
         log_->last_validation() != step;
}

absl::StatusOr<ValidationMetrics> TrainingRun::Validate() {
  absl::StatusOr<ValidationMetrics> metrics = trainer_->Validate();
  if (!metrics.ok()) return WithLastCheckpoint(metrics.status());
  const absl::Status logged = Log(ToJson(*metrics));
  if (!logged.ok()) return WithLastCheckpoint(logged);
  return metrics;
}

bool TrainingRun::checkpoint_due() const {
  return (done() ||
          Due(options_.train.checkpoint_interval(), trainer_->step())) &&
         saved_step_ != trainer_->step();
}

absl::StatusOr<std::string> TrainingRun::Save() {
  RETURN_IF_ERROR(BeginSave());
  RETURN_IF_ERROR(PollSave(/*wait=*/true).status());
  if (!last_save_.ok()) return WithLastCheckpoint(last_save_);
  return last_checkpoint_;
}

absl::Status TrainingRun::BeginSave() {
  if (saved_step_ == trainer_->step()) return absl::OkStatus();
  RETURN_IF_ERROR(PollSave(/*wait=*/true).status());
  if (recording_ != nullptr) {
    const absl::Status flushed = recording_->Flush();
    if (!flushed.ok()) return WithLastCheckpoint(flushed);
  }
  const absl::Status begun = trainer_->BeginCheckpoint(options_.out, manifest_);
  if (!begun.ok()) return WithLastCheckpoint(begun);
  saved_step_ = trainer_->step();
  return absl::OkStatus();
}

absl::StatusOr<std::optional<SaveReport>> TrainingRun::PollSave(bool wait) {
  if (!trainer_->is_saving()) return std::nullopt;
  absl::StatusOr<std::optional<SaveReport>> report =
      trainer_->PollCheckpoint(wait);
  if (!report.ok()) return WithLastCheckpoint(report.status());
  if (!report->has_value()) return report;
  last_save_ = (*report)->status;
  nlohmann::json line = {
      {"kind", "checkpoint"}, {"step", saved_step_}, {"path", (*report)->path}};
  if (last_save_.ok()) {
    last_checkpoint_ = (*report)->path;
    if (options_.mesh == nullptr) return report;
    line["seconds"] = (*report)->seconds;
    line["seconds_stopped"] = (*report)->seconds_stopped;
    line["snapshot_bytes"] = (*report)->snapshot_bytes;
  } else {
    saved_step_ = -1;
    line["error"] = std::string(last_save_.message());
    events_.push_back(line);
  }
  const absl::Status logged = Log(line);
  if (!logged.ok()) return WithLastCheckpoint(logged);
  return report;
}

absl::Status TrainingRun::Watch(const RunObserver& observer, bool wait) {
  ASSIGN_OR_RETURN(const std::optional<SaveReport> report, PollSave(wait));
  if (report && report->status.ok() && observer.on_checkpoint) {
    observer.on_checkpoint(report->path);
  }
  return absl::OkStatus();
}

absl::StatusOr<RunSummary> TrainingRun::Finish(
    const RunObserver& observer, const std::function<bool()>& stop) {
  RunSummary summary;
  while (true) {
    Turn turn;
    // Due here too: a run may have been stopped before its validation.
    if (log_) turn.validates = validation_due() && !stop();
    RETURN_IF_ERROR(Agree(turn));
    if (turn.validates != 0) {
      ASSIGN_OR_RETURN(summary.validation, Validate());
      if (observer.on_validation) observer.on_validation(*summary.validation);
    }
    if (log_) {
      turn.stops = validation_due() || (!done() && stop());
      turn.saves = turn.stops != 0 || checkpoint_due();
    }
    RETURN_IF_ERROR(Agree(turn));
    summary.stopped = turn.stops != 0;
    const bool ends = done() || summary.stopped;
    if (turn.saves != 0) {
      RETURN_IF_ERROR(Watch(observer, /*wait=*/true));  // One before.
      RETURN_IF_ERROR(BeginSave());
    }
    RETURN_IF_ERROR(Watch(observer, /*wait=*/ends));
    if (ends) {
      if (!last_save_.ok()) return WithLastCheckpoint(last_save_);
      break;
    }
    ASSIGN_OR_RETURN(summary.last_step, Step());
    if (observer.on_step) observer.on_step(*summary.last_step);
    for (const nlohmann::json& event : TakeEvents()) {
      if (observer.on_event) observer.on_event(event);
    }
  }
  summary.checkpoint = last_checkpoint_;
  if (recording_ != nullptr) {
    const absl::Status closed = std::exchange(recording_, nullptr)->Close();
    if (!closed.ok()) return WithLastCheckpoint(closed);
  }
  return summary;
}

}  // namespace strata
