// strata scorecard

#include <csignal>
#include <cstdint>
#include <memory>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "core/base/files.h"
#include "core/base/manifest.h"
#include "core/base/progress.h"
#include "core/base/signals.h"
#include "core/base/status_macros.h"
#include "core/model/vision/vision_encoder.h"
#include "nlohmann/json.hpp"
#include "sim/workload/sweep.h"
#include "tools/scorecard/c1.h"
#include "tools/scorecard/c3_c4.h"
#include "tools/scorecard/c5_latency.h"
#include "tools/scorecard/c7_edge.h"
#include "tools/scorecard/claim.h"
#include "tools/scorecard/html.h"
#include "tools/scorecard/quant/cache_study.h"
#include "tools/scorecard/quant/joint_study.h"
#include "tools/scorecard/quant/quantisation.h"
#include "tools/scorecard/routing_time.h"
#include "tools/scorecard/runs.h"
#include "tools/scorecard/variants.h"
#include "tools/strata/command.h"
#include "tools/strata/config_flags.h"
#include "tools/strata/option_parser.h"
#include "tools/strata/output.h"
#include "tools/strata/study.h"
#include "training/data/corpus.h"
#include "training/metrics.h"
#include "training/run/model_folder.h"
#include "training/run/training_run.h"
#include "training/trainer.h"

namespace strata {
namespace {

struct ScorecardFlags {
  ScorecardFlags() { study.out = "scorecard"; }

  std::vector<std::string> ids;
  StudyFlags study;
  std::string routing;  // C1's.
  int64_t routing_steps = 960;
  std::string model;        // Of B1, B3, B4 and B5.
  QuantStudyOptions quant;  // B1's and B4's.
  JointStudyOptions joint;  // B5's.
  int texts = 2;
  int threads = 1;
};

using Measurer = ClaimResult (*)(const std::vector<ScoredRun>&);
struct Claim {
  const char* id;
  Measurer measure;
};
constexpr Claim kClaims[] = {{"A1", HierarchicalExperts},
                             {"A2", AdaptiveGate},
                             {"A3", SparseActivation}};
constexpr char kC1[] = "C1";
constexpr char kB1[] = "B1";
constexpr char kB3[] = "B3";
constexpr char kB4[] = "B4";
constexpr char kB5[] = "B5";

// Claims that want no training.
absl::StatusOr<ClaimResult> MeasureLatency() { return TradingLatency({}); }
absl::StatusOr<ClaimResult> MeasureEdge() {
  return EdgeVision(EdgeVisionConfig(), {});
}
struct PlainClaim {
  const char* id;
  absl::StatusOr<ClaimResult> (*measure)();
};
constexpr PlainClaim kPlainClaims[] = {{"C3", FusedOperators},
                                       {"C4", MemoryReuse},
                                       {"C5", MeasureLatency},
                                       {"C7", MeasureEdge}};

absl::StatusOr<std::set<std::string>> ChooseClaims(
    const std::vector<std::string>& ids) {
  std::set<std::string> all;
  for (const Claim& claim : kClaims) all.insert(claim.id);
  all.insert({kB1, kB3, kB4, kB5, kC1});
  for (const PlainClaim& claim : kPlainClaims) all.insert(claim.id);
  if (ids.empty()) return all;
  for (const std::string& id : ids) {
    if (all.count(id) == 0) {
      return absl::InvalidArgumentError(absl::StrCat("no claim is called ", id,
                                                     "; want some of ",
                                                     absl::StrJoin(all, ", ")));
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
  for (const std::string& note : claim.notes) {
    absl::StrAppend(&text, "  ", note, "\n");
  }
  for (const std::string& part : claim.not_measured) {
    absl::StrAppend(&text, "  not measured: ", part, "\n");
  }
  absl::StrAppend(&text, "  verdict: ", claim.verdict(), "\n");
  return text;
}

// How long the gates of V2 and V3 take, beside the claim of A2.
absl::Status AddRoutingTime(const std::vector<Variant>& variants,
                            ClaimResult& claim) {
  constexpr int64_t kTokens = 4096;
  constexpr int kRepeats = 15;
  std::vector<double> v2, v3;
  for (const Variant& variant : variants) {
    if (variant.name != kV2 && variant.name != kV3) continue;
    ASSIGN_OR_RETURN((variant.name == kV2 ? v2 : v3),
                     RoutingMilliseconds(variant.config, kTokens, kRepeats));
  }
  claim.measures.push_back(RoutingTime(kTokens, v2, v3));
  return absl::OkStatus();
}

// Claims that one set of trained runs measures: results, and JSON of all.
absl::Status ScoreRuns(const ScorecardFlags& flags,
                       const std::set<std::string>& ids, nlohmann::json& json,
                       std::vector<ScoredRun>& runs,
                       std::vector<ClaimResult>& results) {
  ASSIGN_OR_RETURN(const FlaggedStudy study, FlaggedStudy::Create(flags.study));
  const std::vector<Variant> variants = VariantsOf(study.model(), ids);
  ASSIGN_OR_RETURN(runs, study.Train("scorecard", variants));
  json = study.Json(variants, runs);
  for (const Claim& claim : kClaims) {
    if (ids.count(claim.id) == 0) continue;
    results.push_back(claim.measure(runs));
    if (results.back().id == "A2") {
      RETURN_IF_ERROR(AddRoutingTime(variants, results.back()));
    }
  }
  return absl::OkStatus();
}

absl::Status ScoreC1(const ScorecardFlags& flags, nlohmann::json& json,
                     std::vector<ClaimResult>& results) {
  std::signal(SIGPIPE, SIG_IGN);
  InstallInterruptHandler();
  C1Options options;
  options.steps = flags.routing_steps;
  options.routing = flags.routing;
  options.folder = flags.study.out;
  Manifest manifest = NewManifest();
  for (int i = 0; i < flags.study.seeds; ++i) {
    options.seeds.push_back(flags.study.first_seed + i);
    manifest.seeds[absl::StrCat("run ", options.seeds[i])] = options.seeds[i];
  }
  Corpus corpus;
  if (flags.routing.empty()) {
    ASSIGN_OR_RETURN(corpus, LoadCorpus(flags.study.data));
    PrintNotes(corpus);
    manifest.data_hash = corpus.sha256;
  }
  absl::StatusOr<std::vector<C1Run>> runs;
  {
    std::unique_ptr<Progress> progress;
    C1Observer observer;
    observer.on_step = [&](int64_t done, int64_t all) {
      if (!progress) progress = std::make_unique<Progress>("routing", 0, all);
      progress->Update(done, {});
    };
    runs = RunC1(corpus, options, observer, InterruptRequested);
  }
  RETURN_IF_ERROR(runs.status());
  for (const C1Run& run : *runs) {
    json["c1"].push_back(ToJson(run));
    for (const LayoutsOutcome& layouts : run.layouts) {
      const std::string base = absl::StrCat(flags.study.out, "/c1-seed-",
                                            run.seed, "-", layouts.cluster);
      RETURN_IF_ERROR(WriteFileAtomically(base + "-data-expert.csv",
                                          sim::ToCsv(layouts.two_d.sweep)));
      RETURN_IF_ERROR(WriteFileAtomically(base + "-data-expert-pipeline.csv",
                                          sim::ToCsv(layouts.three_d.sweep)));
    }
  }
  if (!json.contains("manifest")) json["manifest"] = ToJson(manifest);
  results.push_back(BalancedParallelism(*runs));
  return absl::OkStatus();
}

// A model of the study's preset, trained with `seed` into --out; one that is
// there already is taken.
absl::StatusOr<std::string> TrainedModel(const ScorecardFlags& flags,
                                         const Corpus& corpus, uint64_t seed) {
  ASSIGN_OR_RETURN(Configs configs, PresetConfigs(flags.study.preset));
  RETURN_IF_ERROR(SetFields(flags.study.set, configs));
  RunOptions options;
  options.model = configs.model;
  options.train = configs.train;
  options.train.set_steps(flags.study.steps);
  options.train.set_seed(seed);
  options.out = absl::StrCat(flags.study.out, "/quantise-seed-", seed);
  options.num_threads = flags.threads;
  const absl::StatusOr<std::string> newest = FindCheckpoint(options.out);
  if (newest.ok()) options.resume_from = *newest;
  ASSIGN_OR_RETURN(const std::unique_ptr<TrainingRun> run,
                   TrainingRun::Start(options, &corpus));
  Progress progress(absl::StrCat("train, seed ", seed), run->trainer().step(),
                    flags.study.steps);
  RunObserver observer;
  observer.on_step = [&](const StepMetrics& metrics) {
    progress.Update(metrics.step, {});
  };
  ASSIGN_OR_RETURN(const RunSummary summary,
                   run->Finish(observer, InterruptRequested));
  if (summary.stopped) return absl::CancelledError("stopped");
  return summary.checkpoint;
}

absl::Status ScoreQuantisation(const ScorecardFlags& flags,
                               const std::set<std::string>& ids,
                               nlohmann::json& json,
                               std::vector<ClaimResult>& results) {
  std::signal(SIGPIPE, SIG_IGN);
  InstallInterruptHandler();
  Corpus corpus;
  if (flags.model.empty()) {
    ASSIGN_OR_RETURN(corpus, LoadCorpus(flags.study.data));
  } else {
    ASSIGN_OR_RETURN(const std::string folder, FindModel(flags.model));
    ASSIGN_OR_RETURN(corpus, LoadCorpusFor(folder, flags.study.data));
  }
  PrintNotes(corpus);
  Manifest manifest = NewManifest();
  manifest.data_hash = corpus.sha256;
  std::vector<QuantRun> runs;
  std::vector<CacheRun> of_caches;
  std::vector<JointRun> joint;
  const bool quantises = ids.count(kB1) + ids.count(kB4) > 0;
  for (int i = 0; i < (flags.model.empty() ? flags.study.seeds : 1); ++i) {
    QuantStudyOptions options = flags.quant;
    options.seed = flags.study.first_seed + i;
    options.model = flags.model;
    if (flags.model.empty()) {
      ASSIGN_OR_RETURN(options.model,
                       TrainedModel(flags, corpus, options.seed));
    }
    options.folder =
        absl::StrCat(flags.study.out, "/quantised-seed-", options.seed);
    options.num_threads = flags.threads;
    options.all_variants = ids.count(kB4) > 0;
    manifest.seeds[absl::StrCat("run ", options.seed)] = options.seed;
    if (ids.count(kB3) > 0) {
      CacheRun run = {options.seed, options.model, {}};
      ASSIGN_OR_RETURN(run.outcomes,
                       RunCacheStudy(corpus, options.model,
                                     options.held_out_tokens, flags.threads));
      json["caches"].push_back(ToJson(run));
      of_caches.push_back(std::move(run));
    }
    for (int text = 0; ids.count(kB5) > 0 && text < flags.texts; ++text) {
      JointStudyOptions of_joint = flags.joint;
      of_joint.model = options.model;
      of_joint.seed = options.seed + 100 * text;
      of_joint.num_threads = flags.threads;
      ASSIGN_OR_RETURN(JointRun run,
                       RunJointStudy(corpus, of_joint, InterruptRequested));
      json["joint"].push_back(ToJson(run));
      joint.push_back(std::move(run));
    }
    if (!quantises) continue;
    std::unique_ptr<Progress> progress;
    QuantObserver observer;
    observer.on_variant = [&](int64_t done, int64_t all) {
      if (!progress) progress = std::make_unique<Progress>("quantise", 0, all);
      progress->Update(done, {});
    };
    ASSIGN_OR_RETURN(QuantRun run, RunQuantStudy(corpus, options, observer,
                                                 InterruptRequested));
    json["quantisation"].push_back(ToJson(run));
    runs.push_back(std::move(run));
  }
  if (!json.contains("manifest")) json["manifest"] = ToJson(manifest);
  if (ids.count(kB1) > 0) results.push_back(QuantisedWeights(runs));
  if (ids.count(kB3) > 0) {
    const AttentionShape shape;
    ASSIGN_OR_RETURN(const std::vector<AttentionOutcome> attention,
                     MeasureAttention(shape, /*rounds=*/50));
    results.push_back(LogDomainAttention(of_caches, shape, attention));
  }
  if (ids.count(kB4) > 0) results.push_back(LearnedCompensation(runs));
  if (ids.count(kB5) > 0) results.push_back(JointPrecision(joint));
  return absl::OkStatus();
}

absl::StatusOr<int> RunScorecard(const ScorecardFlags& flags) {
  ASSIGN_OR_RETURN(std::set<std::string> ids, ChooseClaims(flags.ids));
  if (!flags.routing.empty() && ids.count(kC1) == 0) {
    return absl::InvalidArgumentError(
        "--routing is for C1, which is not asked for");
  }
  const bool has_c1 = ids.erase(kC1) > 0;
  std::set<std::string> plain;
  for (const PlainClaim& claim : kPlainClaims) {
    if (ids.erase(claim.id) > 0) plain.insert(claim.id);
  }
  std::set<std::string> of_weights;
  for (const char* const id : {kB1, kB3, kB4, kB5}) {
    if (ids.erase(id) > 0) of_weights.insert(id);
  }
  if (!flags.model.empty() && of_weights.empty()) {
    return absl::InvalidArgumentError(
        "--model is for B1, B3, B4 and B5, none of which is asked for");
  }
  nlohmann::json json;
  std::vector<ScoredRun> runs;
  std::vector<ClaimResult> results;
  absl::Status status;
  if (!ids.empty()) status = ScoreRuns(flags, ids, json, runs, results);
  if (status.ok() && !of_weights.empty()) {
    status = ScoreQuantisation(flags, of_weights, json, results);
  }
  if (status.ok() && has_c1) status = ScoreC1(flags, json, results);
  if (absl::IsCancelled(status)) return kInterruptedExitCode;
  RETURN_IF_ERROR(status);
  for (const PlainClaim& claim : kPlainClaims) {
    if (plain.count(claim.id) == 0) continue;
    ASSIGN_OR_RETURN(results.emplace_back(), claim.measure());
  }
  if (!json.contains("manifest")) json["manifest"] = ToJson(NewManifest());
  for (const ClaimResult& result : results) {
    json["claims"].push_back(ToJson(result));
  }

  RETURN_IF_ERROR(MakeFolders(flags.study.out));
  const std::string base = flags.study.out + "/scorecard";
  RETURN_IF_ERROR(WriteFileAtomically(base + ".json", json.dump(1) + "\n"));
  RETURN_IF_ERROR(WriteFileAtomically(
      base + ".html", ScorecardPage(results, runs, json["manifest"])));
  if (flags.study.json) {
    PrintJson(json);
    return 0;
  }
  for (const ClaimResult& result : results) Print(ClaimTable(result) + "\n");
  Print(absl::StrCat("written to ", base, ".json and ", base, ".html\n"));
  return 0;
}

}  // namespace

Command AddScorecard(OptionParser& app) {
  OptionParser* scorecard = app.AddSubcommand(
      "scorecard",
      "Measure the specification's claims: ours and the baselines, trained "
      "alike, over several seeds");
  auto flags = std::make_shared<ScorecardFlags>();
  scorecard
      ->AddOption("ids", flags->ids,
                  "Claims: A1, A2, A3, B1, B3, B4, B5, C1, C3, C4, C5, C7 "
                  "(default: all)")
      ->TypeName("ID ...");
  AddStudyFlags(*scorecard, "scorecard.json, scorecard.html", flags->study);
  scorecard
      ->AddOption("--routing", flags->routing,
                  "C1 on this routing trace, not on one that it records")
      ->TypeName("FILE");
  scorecard
      ->AddOption("--routing-steps", flags->routing_steps,
                  "Steps of training whose routing C1 records")
      ->TypeName("N")
      ->Check(Between(8, 100000));
  scorecard
      ->AddOption("--model", flags->model,
                  "B1, B3, B4 and B5 on this model, not on ones that it trains")
      ->TypeName("DIR");
  scorecard
      ->AddOption("--context", flags->quant.context,
                  "Tokens of the sequence that B1 counts memory for")
      ->TypeName("N")
      ->Check(AtLeast(1));
  scorecard
      ->AddOption("--calibration-tokens", flags->quant.calibration_tokens,
                  "B1 and B4: tokens of training text to quantise by")
      ->TypeName("N")
      ->Check(AtLeast(1));
  scorecard
      ->AddOption("--held-out-tokens", flags->quant.held_out_tokens,
                  "B1, B3 and B4: tokens of validation text to judge by")
      ->TypeName("N")
      ->Check(AtLeast(1));
  scorecard
      ->AddOption("--expert-bits", flags->joint.bits,
                  "B5: bits of most experts, 2 or 4; the others have twice as "
                  "many")
      ->TypeName("2|4")
      ->Check(OneOf({"2", "4"}));
  scorecard
      ->AddOption("--wide-share", flags->joint.share_of_wide,
                  "B5: share of the experts that have twice as many bits")
      ->TypeName("S")
      ->Check(BetweenNumbers(0, 1));
  scorecard
      ->AddOption(
          "--texts", flags->texts,
          "B5: texts that a model is calibrated and tuned on, one after "
          "another")
      ->TypeName("N")
      ->Check(AtLeast(1));
  AddThreads(*scorecard, flags->threads);
  return {scorecard, [flags] { return RunScorecard(*flags); }};
}

}  // namespace strata
