// strata scorecard

#include <csignal>
#include <cstdint>
#include <memory>
#include <set>
#include <string>
#include <vector>

#include "CLI/CLI.hpp"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "core/base/files.h"
#include "core/base/manifest.h"
#include "core/base/progress.h"
#include "core/base/sha256.h"
#include "core/base/signals.h"
#include "core/base/status_macros.h"
#include "core/model/config.h"
#include "nlohmann/json.hpp"
#include "tools/scorecard/claim.h"
#include "tools/scorecard/html.h"
#include "tools/scorecard/runs.h"
#include "tools/scorecard/variants.h"
#include "tools/strata/command.h"
#include "tools/strata/config_flags.h"
#include "tools/strata/output.h"
#include "training/config.h"

namespace strata {
namespace {

struct ScorecardFlags {
  std::vector<std::string> ids;
  std::string preset = "demo";
  std::vector<std::string> set;
  std::string data;
  std::string out = "scorecard";
  int64_t steps = 600;
  uint64_t first_seed = 1;
  int seeds = 3;
  int jobs = 1;
  bool json = false;
};

using Measurer = ClaimResult (*)(const std::vector<ScoredRun>&);
struct Claim {
  const char* id;
  Measurer measure;
};
constexpr Claim kClaims[] = {{"A1", HierarchicalExperts},
                             {"A2", AdaptiveGate},
                             {"A3", SparseActivation}};

absl::StatusOr<std::set<std::string>> ChooseClaims(
    const std::vector<std::string>& ids) {
  std::set<std::string> all;
  for (const Claim& claim : kClaims) all.insert(claim.id);
  if (ids.empty()) return all;
  for (const std::string& id : ids) {
    if (all.count(id) == 0) {
      return absl::InvalidArgumentError(
          absl::StrCat("no claim is called ", id, "; want some of A1, A2, A3"));
    }
  }
  return std::set<std::string>(ids.begin(), ids.end());
}

std::string ClaimTable(const ClaimResult& claim) {
  std::vector<std::vector<std::string>> rows = {
      {absl::StrCat(claim.id, " ", claim.title), "", "baseline", "ours",
       "ratio"}};
  for (const Measure& m : claim.measures) {
    rows.push_back(
        {absl::StrCat("  ", m.what),
         absl::StrCat(m.baseline_name, " -> ", m.ours_name),
         FormatSpread(m.baseline), FormatSpread(m.ours),
         absl::StrCat(FormatRatio(m), m.reached() ? "" : "  NOT REACHED")});
  }
  std::string text = FormatTable(rows);
  for (const std::string& part : claim.not_measured) {
    absl::StrAppend(&text, "  not measured: ", part, "\n");
  }
  absl::StrAppend(&text, "  verdict: ", claim.verdict(), "\n");
  return text;
}

absl::StatusOr<int> RunScorecard(const ScorecardFlags& flags) {
  ASSIGN_OR_RETURN(const std::set<std::string> ids, ChooseClaims(flags.ids));
  ASSIGN_OR_RETURN(Configs configs, PresetConfigs(flags.preset));
  RETURN_IF_ERROR(SetFields(flags.set, configs));
  configs.train.set_steps(flags.steps);
  RETURN_IF_ERROR(Validate(configs.model));
  if (!configs.model.moe().has_hierarchical()) {
    return absl::InvalidArgumentError(
        absl::StrCat("preset ", flags.preset,
                     " has no hierarchical router; want one that has"));
  }
  ASSIGN_OR_RETURN(const Corpus corpus, LoadCorpus(flags.data));
  PrintNotes(corpus);
  StudyOptions options;
  options.train = configs.train;
  for (int i = 0; i < flags.seeds; ++i) {
    options.seeds.push_back(flags.first_seed + i);
  }
  options.folder = flags.out + "/runs";
  options.num_jobs = flags.jobs;

  std::signal(SIGPIPE, SIG_IGN);
  InstallInterruptHandler();
  absl::StatusOr<std::vector<ScoredRun>> runs;
  {
    std::unique_ptr<Progress> progress;
    StudyObserver observer;
    observer.on_step = [&](int64_t done, int64_t all) {
      if (!progress) progress = std::make_unique<Progress>("scorecard", 0, all);
      progress->Update(done, {});
    };
    observer.on_run = [&](const ScoredRun& run) {
      progress->Print(absl::StrFormat(
          "%s, seed %d: %.4f bits per byte, %.1f %% of the experts",
          run.variant, run.seed, run.bits_per_byte,
          100 * run.experts.active_share));
    };
    runs = TrainAll(VariantsOf(configs.model, ids), options, corpus, observer,
                    InterruptRequested);
  }
  if (absl::IsCancelled(runs.status())) {
    PrintNote(absl::StrCat("stopped; finished runs are in ", options.folder,
                           ", and the same command goes on from them"));
    return kInterruptedExitCode;
  }
  RETURN_IF_ERROR(runs.status());

  std::vector<ClaimResult> results;
  nlohmann::json claims = nlohmann::json::array();
  for (const Claim& claim : kClaims) {
    if (ids.count(claim.id) == 0) continue;
    results.push_back(claim.measure(*runs));
    claims.push_back(ToJson(results.back()));
  }
  Manifest manifest = NewManifest();
  manifest.config_hash = Sha256Hex(ToJson(configs.model));
  manifest.data_hash = corpus.sha256;
  for (const uint64_t seed : options.seeds) {
    manifest.seeds[absl::StrCat("run ", seed)] = seed;
  }
  nlohmann::json manifest_json = ToJson(manifest);
  manifest_json["data_sources"] = corpus.sources;
  nlohmann::json json = {
      {"claims", claims},
      {"runs", nlohmann::json::array()},
      {"train", nlohmann::json::parse(ToJson(configs.train))},
      {"variants", nlohmann::json::object()},
      {"manifest", manifest_json}};
  for (const Variant& variant : VariantsOf(configs.model, ids)) {
    json["variants"][variant.name] =
        nlohmann::json::parse(ToJson(variant.config));
  }
  for (const ScoredRun& run : *runs) json["runs"].push_back(ToJson(run));

  const std::string base = flags.out + "/scorecard";
  RETURN_IF_ERROR(WriteFileAtomically(base + ".json", json.dump(1) + "\n"));
  RETURN_IF_ERROR(WriteFileAtomically(
      base + ".html", ScorecardPage(results, *runs, manifest_json)));
  if (flags.json) {
    PrintJson(json);
    return 0;
  }
  for (const ClaimResult& result : results) Print(ClaimTable(result) + "\n");
  Print(absl::StrCat("written to ", base, ".json and ", base, ".html\n"));
  return 0;
}

}  // namespace

Command AddScorecard(CLI::App& app) {
  CLI::App* scorecard = app.add_subcommand(
      "scorecard",
      "Measure the specification's claims: ours and the baselines, trained "
      "alike, over several seeds");
  auto flags = std::make_shared<ScorecardFlags>();
  scorecard->add_option("ids", flags->ids, "Claims: A1, A2, A3 (default: all)")
      ->type_name("ID ...");
  AddPreset(*scorecard, flags->preset);
  AddSet(*scorecard, flags->set);
  AddData(*scorecard, flags->data);
  scorecard
      ->add_option("--out", flags->out,
                   "Folder of scorecard.json, scorecard.html and runs/; runs "
                   "that it holds are not made again")
      ->type_name("DIR");
  scorecard->add_option("--steps", flags->steps, "Steps of each run")
      ->type_name("N")
      ->check(AtLeast(1));
  scorecard->add_option("--seeds", flags->seeds, "Seeds of each variant")
      ->type_name("N")
      ->check(Between(1, 1000));
  scorecard->add_option("--first-seed", flags->first_seed, "The first of them")
      ->type_name("N");
  scorecard
      ->add_option("--jobs", flags->jobs,
                   "Runs at a time, a thread each; results do not depend on it")
      ->type_name("N")
      ->check(Between(1, 1024));
  AddJson(*scorecard, flags->json);
  return {scorecard, [flags] { return RunScorecard(*flags); }};
}

}  // namespace strata
