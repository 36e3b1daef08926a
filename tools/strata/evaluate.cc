// strata evaluate

#include <cmath>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "core/base/manifest.h"
#include "core/base/progress.h"
#include "core/base/sha256.h"
#include "core/base/status_macros.h"
#include "core/checkpoint/model_files.h"
#include "core/model/config.h"
#include "nlohmann/json.hpp"
#include "tools/strata/command.h"
#include "tools/strata/config_flags.h"
#include "tools/strata/option_parser.h"
#include "tools/strata/output.h"
#include "tools/strata/routing_flags.h"
#include "training/metrics.h"
#include "training/routing_recording.h"
#include "training/run/model_folder.h"

namespace strata {
namespace {

struct EvaluateFlags {
  std::string model;
  std::string data;
  int64_t tokens = 65536;
  int threads = 1;
  bool json = false;
  RecordOptions record;
  RouteOptions route;
};

std::string DomainTable(const ValidationMetrics& metrics) {
  std::vector<std::vector<std::string>> rows = {
      {"domain", "tokens", "bytes", "bits per byte", "perplexity"}};
  int64_t tokens = 0;
  int64_t bytes = 0;
  for (const DomainMetrics& domain : metrics.domains) {
    tokens += domain.tokens;
    bytes += domain.bytes;
    rows.push_back({domain.name, FormatInteger(domain.tokens),
                    FormatInteger(domain.bytes),
                    absl::StrFormat("%.4f", domain.bits_per_byte),
                    absl::StrFormat("%.3f", std::exp(domain.nll))});
  }
  rows.push_back({"all, each domain alike", FormatInteger(tokens),
                  FormatInteger(bytes),
                  absl::StrFormat("%.4f", metrics.bits_per_byte),
                  absl::StrFormat("%.3f", std::exp(metrics.nll))});
  return FormatTable(rows);
}

std::string ExpertTable(const ExpertUse& use) {
  std::vector<std::vector<std::string>> rows = {
      {"experts", ""},
      {"share active per token",
       absl::StrFormat("%.1f %%", 100 * use.active_share)},
      {"expert FLOPs per token", FormatCount(use.flops_per_token)},
      {"Gini of the load", absl::StrFormat("%.3f", use.gini)},
      {"utilisation (mean / max load)",
       absl::StrFormat("%.3f", use.utilisation)},
      {"share starved (load < 10 % of mean)",
       absl::StrFormat("%.1f %%", 100 * use.starved_share)}};
  if (use.tier_tokens.size() > 1) {
    for (size_t tier = 0; tier < use.tier_tokens.size(); ++tier) {
      rows.push_back({absl::StrCat("tokens that reach tier ", tier + 1),
                      absl::StrFormat("%.1f %%", 100 * use.tier_tokens[tier])});
    }
  }
  return FormatTable(rows);
}

absl::StatusOr<int> RunEvaluate(const EvaluateFlags& flags) {
  ASSIGN_OR_RETURN(const std::string folder, FindModel(flags.model));
  ASSIGN_OR_RETURN(const ModelConfig config, LoadModelConfig(folder));
  ASSIGN_OR_RETURN(const Corpus corpus, LoadCorpusFor(folder, flags.data));
  ASSIGN_OR_RETURN(const ValidationMetrics metrics,
                   EvaluateModel(folder, corpus, flags.tokens, flags.threads,
                                 flags.record, flags.route));
  PrintNotes(corpus);
  if (flags.json) {
    Manifest manifest = NewManifest();
    manifest.config_hash = Sha256Hex(ToJson(config));
    manifest.data_hash = corpus.sha256;
    ASSIGN_OR_RETURN(manifest.weights_hash, HashWeights(folder));
    nlohmann::json json = ToJson(metrics);
    json.erase("kind");
    json.erase("step");  // The folder's name has it.
    json["model"] = folder;
    json["route"] = Describe(flags.route);
    json["manifest"] = ToJson(manifest);
    json["manifest"]["data_sources"] = corpus.sources;
    if (corpus.tokenizer) {
      json["manifest"]["tokenizer_sha256"] = corpus.tokenizer->sha256;
    }
    PrintJson(json);
    return 0;
  }
  Print(absl::StrCat(folder, "\n\n", DomainTable(metrics), "\n",
                     ExpertTable(metrics.experts)));
  return 0;
}

}  // namespace

Command AddEvaluate(OptionParser& app) {
  OptionParser* evaluate = app.AddSubcommand(
      "evaluate",
      "Measure a model on the validation part of a corpus, by domain");
  auto flags = std::make_shared<EvaluateFlags>();
  evaluate
      ->AddOption("--model", flags->model,
                  "Checkpoint, or run of which the newest is taken")
      ->TypeName("DIR")
      ->Required();
  AddData(*evaluate, flags->data);
  evaluate
      ->AddOption("--tokens", flags->tokens,
                  "Tokens of each domain to look at, at most (bytes, where "
                  "the model has no tokenizer)")
      ->TypeName("N")
      ->Check(AtLeast(1));
  AddRecordRouting(*evaluate, flags->record);
  AddRoute(*evaluate, flags->route);
  AddThreads(*evaluate, flags->threads);
  AddJson(*evaluate, flags->json);
  return {evaluate, [flags] { return RunEvaluate(*flags); }};
}

}  // namespace strata
