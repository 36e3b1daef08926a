// strata train

#include <chrono>
#include <csignal>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/algorithm/container.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "core/base/files.h"
#include "core/base/progress.h"
#include "core/base/signals.h"
#include "core/base/status_macros.h"
#include "core/checkpoint/model_files.h"
#include "core/parallel/agree.h"
#include "core/parallel/mesh.h"
#include "core/parallel/pipeline_schedule.h"
#include "core/runtime/backend.h"
#include "core/runtime/observed_backend.h"
#include "core/tokenizer/model_tokenizer.h"
#include "google/protobuf/message.h"
#include "google/protobuf/text_format.h"
#include "nlohmann/json.hpp"
#include "tools/strata/command.h"
#include "tools/strata/config_flags.h"
#include "tools/strata/device_flags.h"
#include "tools/strata/option_parser.h"
#include "tools/strata/output.h"
#include "tools/strata/ranks.h"
#include "tools/strata/rate.h"
#include "tools/strata/routing_flags.h"
#include "training/metrics.h"
#include "training/routing_recording.h"
#include "training/run/model_folder.h"
#include "training/run/training_run.h"
#include "training/trace/execution_recorder.h"

namespace strata {
namespace {

struct TrainFlags {
  std::string preset = "demo";
  std::vector<std::string> set;
  std::string data;
  std::string tokenizer;
  std::string out;
  std::string resume;
  int64_t steps = 0;
  uint64_t seed = 0;
  int threads = 1;
  DeviceFlags device;
  MeshFlags mesh;
  bool overwrite = false;
  bool json = false;
  RecordOptions record;
  RouteOptions route;
  std::string trace;
  int64_t trace_after = 2;
  int64_t trace_steps = 1;

  const OptionParser* parser = nullptr;
  const Option* preset_option = nullptr;
  Option* resume_option = nullptr;
  Option* steps_option = nullptr;
  Option* seed_option = nullptr;

  bool resumes() const { return resume_option->is_given(); }
};

// Where the execution traces go, which must be a folder without any.
absl::Status ChooseTrace(const TrainFlags& flags, bool tells,
                         ExecutionRecorder* recorder, TraceOptions& trace) {
  trace.recorder = recorder;
  trace.prefix = flags.trace + "/train";
  trace.after = flags.trace_after;
  trace.steps = flags.trace_steps;
  if (!tells) return absl::OkStatus();
  RETURN_IF_ERROR(MakeFolders(flags.trace));
  if (std::filesystem::is_empty(flags.trace)) return absl::OkStatus();
  return absl::AlreadyExistsError(
      absl::StrCat("--trace ", flags.trace,
                   " is not empty; want a folder for this run's "
                   "traces alone"));
}

// Where the run is, and what it resumes.
absl::Status ChooseFolders(const TrainFlags& flags, RunOptions& options) {
  options.out =
      flags.out.empty() ? absl::StrCat("runs/", flags.preset) : flags.out;
  if (!flags.resumes()) return absl::OkStatus();
  ASSIGN_OR_RETURN(
      options.resume_from,
      FindCheckpoint(flags.resume.empty() ? options.out : flags.resume));
  // A path such as "runs/a/step-000100/" has an empty last part.
  std::filesystem::path checkpoint(options.resume_from);
  if (!checkpoint.has_filename()) checkpoint = checkpoint.parent_path();
  if (!checkpoint.has_parent_path()) checkpoint = "." / checkpoint;
  options.resume_from = checkpoint.string();
  if (flags.out.empty()) options.out = checkpoint.parent_path().string();
  return absl::OkStatus();
}

// The one that the flags name, or that the checkpoint has; none for bytes.
absl::StatusOr<std::optional<ModelTokenizer>> ChooseTokenizer(
    const TrainFlags& flags, const std::string& resume_from) {
  std::optional<ModelTokenizer> tokenizer;
  if (!flags.tokenizer.empty()) {
    ASSIGN_OR_RETURN(tokenizer, ModelTokenizer::Load(flags.tokenizer));
  } else if (!resume_from.empty() && HasTokenizer(resume_from)) {
    ASSIGN_OR_RETURN(tokenizer, ModelTokenizer::Load(resume_from));
  }
  return tokenizer;
}

// The checkpoint's configs if one is resumed, the preset's otherwise, with the
// tokenizer's vocabulary and what the flags change.
absl::StatusOr<Configs> ChooseConfigs(
    const TrainFlags& flags, const std::string& resume_from,
    const std::optional<ModelTokenizer>& tokenizer) {
  Configs configs;
  if (flags.resumes() && !flags.preset_option->is_given()) {
    ASSIGN_OR_RETURN(configs.model, LoadModelConfig(resume_from));
    ASSIGN_OR_RETURN(configs.train, LoadTrainConfig(resume_from));
  } else {
    ASSIGN_OR_RETURN(configs, PresetConfigs(flags.preset));
  }
  if (tokenizer) {
    configs.model.set_vocab_size(tokenizer->tokenizer().vocab_size());
  }
  RETURN_IF_ERROR(SetFields(flags.set, configs));
  if (tokenizer &&
      configs.model.vocab_size() != tokenizer->tokenizer().vocab_size()) {
    return absl::InvalidArgumentError(absl::StrCat(
        "--set makes vocab_size ", configs.model.vocab_size(),
        ", and the tokenizer has ", tokenizer->tokenizer().vocab_size(),
        " tokens; leave it out, it is taken from the tokenizer"));
  }
  if (flags.steps_option->is_given()) configs.train.set_steps(flags.steps);
  if (flags.seed_option->is_given()) configs.train.set_seed(flags.seed);
  return configs;
}

std::string Describe(const ValidationMetrics& metrics) {
  std::string line = absl::StrFormat("step %d: validation %.4f bits per byte",
                                     metrics.step, metrics.bits_per_byte);
  for (const DomainMetrics& domain : metrics.domains) {
    absl::StrAppendFormat(&line, ", %s %.4f", domain.name,
                          domain.bits_per_byte);
  }
  return line;
}

// Of an alarm or a rebalancing (training/run/training_monitor.h).
std::string DescribeEvent(const nlohmann::json& event) {
  const auto step = event.at("step").get<int64_t>();
  if (event.value("kind", "") == "checkpoint") {
    return absl::StrFormat("step %d: no checkpoint: %s", step,
                           event["error"].get<std::string>());
  }
  if (event.contains("alarm")) {
    return absl::StrFormat(
        "step %d: alarm %s %s: %s", step, event["alarm"].get<std::string>(),
        event["state"].get<std::string>(), event["message"].get<std::string>());
  }
  if (event.contains("message")) {
    return absl::StrFormat("step %d: rebalancing failed: %s", step,
                           event["message"].get<std::string>());
  }
  if (event["rebalance"] == "moved") {
    return absl::StrFormat(
        "step %d: layer %d tier %d: %d experts moved, %s bytes: spread of "
        "utilisation %.3f -> %.3f",
        step, event["layer"].get<int64_t>(), event["tier"].get<int64_t>(),
        event["experts"].get<int64_t>(),
        FormatCount(event["bytes"].get<double>()),
        event["spread_before"].get<double>(),
        event["spread_after"].get<double>());
  }
  return absl::StrFormat(
      "step %d: rebalanced virtual ranks: spread of utilisation %.3f -> %.3f, "
      "%d slots change",
      step, event["spread_before"].get<double>(),
      event["spread_after"].get<double>(),
      event["slots_changed"].get<int64_t>());
}

void PrintResult(const TrainFlags& flags, const RunOptions& options,
                 const RunSummary& summary, const TrainingRun& run,
                 int64_t step, double seconds) {
  if (flags.json) {
    nlohmann::json json = {{"out", options.out},
                           {"checkpoint", summary.checkpoint},
                           {"step", step},
                           {"steps", options.train.steps()},
                           {"stopped", summary.stopped},
                           {"seconds", seconds},
                           {"manifest", run.manifest()}};
    if (summary.last_step) json["last_step"] = ToJson(*summary.last_step);
    if (summary.validation) json["validation"] = ToJson(*summary.validation);
    if (options.trace.recorder != nullptr) {
      json["trace"] = {{"folder", flags.trace},
                       {"steps", flags.trace_steps},
                       {"seconds", options.trace.recorder->seconds()}};
    }
    PrintJson(json);
    return;
  }
  std::string text = absl::StrFormat("%d of %d steps are done, %s of it now.\n",
                                     step, options.train.steps(),
                                     FormatClock(absl::Seconds(seconds)));
  if (summary.validation) {
    absl::StrAppendFormat(&text, "validation  %.4f bits per byte\n",
                          summary.validation->bits_per_byte);
  }
  absl::StrAppend(&text, "checkpoint  ", summary.checkpoint, "\nmetrics     ",
                  options.out, "/", kMetricsFile, "\n");
  if (!options.record.path.empty()) {
    absl::StrAppend(&text, "routing     ", options.record.path, "\n");
  }
  if (options.trace.recorder != nullptr) {
    absl::StrAppendFormat(&text, "trace       %s, %d steps in %.3f s\n",
                          flags.trace, flags.trace_steps,
                          options.trace.recorder->seconds());
  }
  Print(text);
}

std::string ProtoText(const google::protobuf::Message& config) {
  std::string text;
  google::protobuf::TextFormat::PrintToString(config, &text);
  return text;
}

// What hosts may have other files of.
std::vector<Setting> ReadFromFiles(const RunOptions& options,
                                   const Corpus& corpus) {
  return {{"the checkpoint to go on from", options.resume_from},
          {"the model's config", ProtoText(options.model)},
          {"the training's config", ProtoText(options.train)},
          {"the hash of the tokenizer",
           corpus.tokenizer ? corpus.tokenizer->sha256 : ""},
          {"the hash of the text", corpus.sha256}};
}

// `ranks`: null for one. Only the first rank tells.
absl::StatusOr<int> TrainOn(const Ranks* ranks, const TrainFlags& flags) {
  const Mesh* const mesh = ranks != nullptr ? &ranks->mesh() : nullptr;
  const bool tells = mesh == nullptr || mesh->world().rank() == 0;
  RunOptions options;
  options.mesh = mesh;
  ASSIGN_OR_RETURN(options.schedule, ParsePipelineKind(flags.mesh.schedule));
  options.chunks = flags.mesh.chunks;
  options.shard_optimizer = flags.mesh.shard_optimizer;
  options.overlap_sums = flags.mesh.overlap_sums;
  options.overlap_rows = flags.mesh.overlap_rows;
  ASSIGN_OR_RETURN(options.balance, BalanceOf(flags.mesh));
  options.overwrite = flags.overwrite;
  options.num_threads = flags.threads;
  std::unique_ptr<ExecutionRecorder> alone;
  ExecutionRecorder* recorder = ranks != nullptr ? ranks->recorder() : nullptr;
  if (!flags.trace.empty()) {
    if (ranks == nullptr) {
      alone = std::make_unique<ExecutionRecorder>(/*rank=*/0);
      recorder = alone.get();
    }
    RETURN_IF_ERROR(ChooseTrace(flags, tells, recorder, options.trace));
  }
  options.backend = [&flags, mesh, ranks,
                     recorder]() -> absl::StatusOr<std::unique_ptr<Backend>> {
    ASSIGN_OR_RETURN(std::unique_ptr<Backend> backend,
                     MakeBackend(flags.device, flags.threads, mesh,
                                 ranks != nullptr ? ranks->gpu() : 0));
    if (recorder == nullptr) return backend;
    return Observed(std::move(backend), *recorder);
  };
  options.record = flags.record;
  options.route = flags.route;
  RETURN_IF_ERROR(ChooseFolders(flags, options));
  ASSIGN_OR_RETURN(const std::optional<ModelTokenizer> tokenizer,
                   ChooseTokenizer(flags, options.resume_from));
  ASSIGN_OR_RETURN(const Configs configs,
                   ChooseConfigs(flags, options.resume_from, tokenizer));
  options.model = configs.model;
  options.train = configs.train;
  ASSIGN_OR_RETURN(Corpus corpus, LoadCorpus(flags.data));
  if (tokenizer) RETURN_IF_ERROR(TokenizeWithProgress(*tokenizer, corpus));
  if (ranks != nullptr) {
    RETURN_IF_ERROR(ranks->CheckSame(ReadFromFiles(options, corpus)));
  }
  ASSIGN_OR_RETURN(const std::unique_ptr<TrainingRun> run,
                   TrainingRun::Start(options, &corpus));
  if (tells) PrintNotes(corpus);

  // Whoever reads the progress may go; the training goes on.
  std::signal(SIGPIPE, SIG_IGN);
  InstallInterruptHandler();
  const auto start = std::chrono::steady_clock::now();
  const int64_t first_step = run->trainer().step();
  absl::StatusOr<RunSummary> summary;
  if (!tells) {
    summary = run->Finish({}, InterruptRequested);
  } else {
    Progress progress("train", first_step, options.train.steps());
    RecentRate rate;
    RunObserver observer;
    observer.on_step = [&](const StepMetrics& metrics) {
      rate.Add(metrics.tokens, metrics.seconds);
      progress.Update(metrics.step,
                      {absl::StrFormat("loss %.3f", metrics.loss),
                       absl::StrCat(FormatCount(rate.PerSecond()), " tok/s")});
    };
    observer.on_validation = [&](const ValidationMetrics& metrics) {
      progress.Print(Describe(metrics));
    };
    observer.on_checkpoint = [&](const std::string& path) {
      progress.Print(absl::StrCat("saved ", path));
    };
    observer.on_event = [&](const nlohmann::json& event) {
      progress.Print(DescribeEvent(event));
    };
    summary = run->Finish(observer, InterruptRequested);
  }
  RETURN_IF_ERROR(summary.status());
  if (!tells) return summary->stopped ? kInterruptedExitCode : 0;

  const double seconds =
      std::chrono::duration<double>(std::chrono::steady_clock::now() - start)
          .count();
  PrintResult(flags, options, *summary, *run, run->trainer().step(), seconds);
  if (!summary->stopped) return 0;
  PrintNote(
      absl::StrCat("stopped after step ", run->trainer().step(), " of ",
                   options.train.steps(), " and saved ", summary->checkpoint,
                   "; to go on: strata train --resume ", summary->checkpoint));
  return kInterruptedExitCode;
}

// What ranks must have alike before they exchange anything else: the program
// and its options, but those that a host may have its own value of.
std::vector<Setting> StartedWith(const OptionParser& parser) {
  constexpr absl::string_view kOfEachHost[] = {
      "--help", "--threads", "--timeout", "--data", "--tokenizer", "--json"};
  std::vector<Setting> settings = {{"the program", VersionText()}};
  for (const Option* option : parser.options()) {
    const std::string name = option->name();
    if (absl::c_linear_search(kOfEachHost, name)) continue;
    settings.push_back({name, option->value()});
  }
  return settings;
}

absl::StatusOr<int> RunTrain(const TrainFlags& flags) {
  const bool on_gpus = flags.device.device == "cuda";
  if (on_gpus && !flags.trace.empty()) {
    return absl::UnimplementedError(
        "--trace is of --device=cpu, as a GPU runs a graph whole");
  }
  ASSIGN_OR_RETURN(const std::unique_ptr<Ranks> ranks,
                   Ranks::Join(flags.mesh, on_gpus, !flags.trace.empty(),
                               StartedWith(*flags.parser)));
  absl::StatusOr<int> exit_code = TrainOn(ranks.get(), flags);
  if (ranks == nullptr) return exit_code;
  if (!exit_code.ok()) ranks->Fail(exit_code.status());
  return exit_code;
}

void AddTrace(OptionParser& app, TrainFlags& flags) {
  Option* const trace =
      app.AddOption("--trace", flags.trace,
                    "Write what each rank does in some steps to "
                    "DIR/train.<rank>.et, Chakra traces for strata simulate "
                    "--chakra DIR")
          ->TypeName("DIR");
  app.AddOption("--trace-after", flags.trace_after,
                "With it: steps before the first that is recorded")
      ->TypeName("N")
      ->Check(AtLeast(0))
      ->Needs(trace);
  app.AddOption("--trace-steps", flags.trace_steps,
                "With it: how many steps, and what stands between them")
      ->TypeName("N")
      ->Check(AtLeast(1))
      ->Needs(trace);
}

}  // namespace

Command AddTrain(OptionParser& app) {
  OptionParser* train = app.AddSubcommand(
      "train",
      "Train a model; Ctrl-C saves, and --resume goes on as if it had not "
      "stopped");
  auto flags = std::make_shared<TrainFlags>();
  flags->parser = train;
  AddPreset(*train, flags->preset);
  flags->preset_option = train->FindOption("--preset");
  AddData(*train, flags->data);
  train
      ->AddOption("--tokenizer", flags->tokenizer,
                  "Learn ids of this tokenizer.json (or of the one in a "
                  "folder) instead of bytes; the model's vocabulary is its. A "
                  "resumed run has the checkpoint's")
      ->TypeName("PATH");
  train
      ->AddOption("--out", flags->out,
                  "Folder of the run: metrics and checkpoints (default: "
                  "runs/PRESET)")
      ->TypeName("DIR");
  flags->resume_option =
      train
          ->AddOption("--resume", flags->resume,
                      "Go on from a checkpoint, or from the newest one of a "
                      "run; without PATH, of --out. Configs are the "
                      "checkpoint's unless --preset is given")
          ->TypeName("[PATH]")
          ->Expected(0, 1);
  train
      ->AddFlag("--overwrite", flags->overwrite,
                "Replace the run that --out holds")
      ->Excludes(flags->resume_option);
  AddSet(*train, flags->set);
  flags->steps_option =
      train
          ->AddOption("--steps", flags->steps,
                      "Steps in all, those resumed from included (default: "
                      "the config's)")
          ->TypeName("N")
          ->Check(AtLeast(1))
          ->ShowDefault("");
  flags->seed_option =
      train
          ->AddOption("--seed", flags->seed,
                      "Seed of weights and data order (default: the config's)")
          ->TypeName("N")
          ->ShowDefault("");
  AddRecordRouting(*train, flags->record);
  AddRoute(*train, flags->route);
  AddTrace(*train, *flags);
  AddThreads(*train, flags->threads);
  AddDevice(*train, flags->device);
  AddMesh(*train, flags->mesh);
  AddJson(*train, flags->json);
  return {train, [flags] { return RunTrain(*flags); }};
}

}  // namespace strata
