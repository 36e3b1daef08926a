#include "tools/strata/study.h"

#include <csignal>
#include <cstdint>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "core/base/manifest.h"
#include "core/base/progress.h"
#include "core/base/sha256.h"
#include "core/base/signals.h"
#include "core/base/status_macros.h"
#include "core/model/config.h"
#include "nlohmann/json.hpp"
#include "tools/scorecard/runs.h"
#include "tools/scorecard/variants.h"
#include "tools/strata/config_flags.h"
#include "tools/strata/option_parser.h"
#include "tools/strata/output.h"
#include "training/config.h"
#include "training/data/corpus.h"

namespace strata {

void AddStudyFlags(OptionParser& app, const std::string& written,
                   StudyFlags& flags) {
  AddPreset(app, flags.preset);
  AddSet(app, flags.set);
  AddData(app, flags.data);
  app.AddOption("--out", flags.out,
                absl::StrCat("Folder of ", written,
                             " and runs/; runs that it holds are not made "
                             "again"))
      ->TypeName("DIR");
  app.AddOption("--steps", flags.steps, "Steps of each run")
      ->TypeName("N")
      ->Check(AtLeast(1));
  app.AddOption("--seeds", flags.seeds, "Seeds of each variant")
      ->TypeName("N")
      ->Check(Between(1, 1000));
  app.AddOption("--first-seed", flags.first_seed, "The first of them")
      ->TypeName("N");
  app.AddOption("--jobs", flags.jobs,
                "Runs at a time, a thread each; results do not depend on it")
      ->TypeName("N")
      ->Check(Between(1, 1024));
  AddJson(app, flags.json);
}

FlaggedStudy::FlaggedStudy(Configs configs, Corpus corpus,
                           const StudyFlags& flags)
    : configs_(std::move(configs)),
      corpus_(std::move(corpus)),
      out_(flags.out) {
  options_.train = configs_.train;
  for (int i = 0; i < flags.seeds; ++i) {
    options_.seeds.push_back(flags.first_seed + i);
  }
  options_.folder = flags.out + "/runs";
  options_.num_jobs = flags.jobs;
}

absl::StatusOr<FlaggedStudy> FlaggedStudy::Create(const StudyFlags& flags) {
  ASSIGN_OR_RETURN(Configs configs, PresetConfigs(flags.preset));
  RETURN_IF_ERROR(SetFields(flags.set, configs));
  configs.train.set_steps(flags.steps);
  RETURN_IF_ERROR(Validate(configs.model));
  if (!configs.model.moe().has_hierarchical()) {
    return absl::InvalidArgumentError(
        absl::StrCat("preset ", flags.preset,
                     " has no hierarchical router; want one that has"));
  }
  ASSIGN_OR_RETURN(Corpus corpus, LoadCorpus(flags.data));
  PrintNotes(corpus);
  return FlaggedStudy(std::move(configs), std::move(corpus), flags);
}

absl::StatusOr<std::vector<ScoredRun>> FlaggedStudy::Train(
    const std::string& title, const std::vector<Variant>& variants) const {
  std::signal(SIGPIPE, SIG_IGN);
  InstallInterruptHandler();
  absl::StatusOr<std::vector<ScoredRun>> runs;
  {
    std::unique_ptr<Progress> progress;
    StudyObserver observer;
    observer.on_step = [&](int64_t done, int64_t all) {
      if (!progress) progress = std::make_unique<Progress>(title, 0, all);
      progress->Update(done, {});
    };
    observer.on_run = [&](const ScoredRun& run) {
      progress->Print(absl::StrFormat(
          "%s, seed %d: %.4f bits per byte, %.1f %% of the experts",
          run.variant, run.seed, run.bits_per_byte,
          100 * run.experts.active_share));
    };
    runs = TrainAll(variants, options_, corpus_, observer, InterruptRequested);
  }
  if (absl::IsCancelled(runs.status())) {
    PrintNote(absl::StrCat("stopped; finished runs are in ", options_.folder,
                           ", and the same command goes on from them"));
  }
  return runs;
}

nlohmann::json FlaggedStudy::Json(const std::vector<Variant>& variants,
                                  const std::vector<ScoredRun>& runs) const {
  Manifest manifest = NewManifest();
  manifest.config_hash = Sha256Hex(ToJson(configs_.model));
  manifest.data_hash = corpus_.sha256;
  for (const uint64_t seed : options_.seeds) {
    manifest.seeds[absl::StrCat("run ", seed)] = seed;
  }
  nlohmann::json json = {
      {"runs", nlohmann::json::array()},
      {"train", nlohmann::json::parse(ToJson(configs_.train))},
      {"variants", nlohmann::json::object()},
      {"manifest", ToJson(manifest)}};
  json["manifest"]["data_sources"] = corpus_.sources;
  for (const Variant& variant : variants) {
    json["variants"][variant.name] =
        nlohmann::json::parse(ToJson(variant.config));
  }
  for (const ScoredRun& run : runs) json["runs"].push_back(ToJson(run));
  return json;
}

}  // namespace strata
