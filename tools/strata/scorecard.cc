// strata scorecard

#include <cstdint>
#include <memory>
#include <set>
#include <string>
#include <vector>

#include "CLI/CLI.hpp"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "core/base/files.h"
#include "core/base/signals.h"
#include "core/base/status_macros.h"
#include "nlohmann/json.hpp"
#include "tools/scorecard/claim.h"
#include "tools/scorecard/html.h"
#include "tools/scorecard/routing_time.h"
#include "tools/scorecard/runs.h"
#include "tools/scorecard/variants.h"
#include "tools/strata/command.h"
#include "tools/strata/output.h"
#include "tools/strata/study.h"

namespace strata {
namespace {

struct ScorecardFlags {
  ScorecardFlags() { study.out = "scorecard"; }

  std::vector<std::string> ids;
  StudyFlags study;
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

absl::StatusOr<int> RunScorecard(const ScorecardFlags& flags) {
  ASSIGN_OR_RETURN(const std::set<std::string> ids, ChooseClaims(flags.ids));
  ASSIGN_OR_RETURN(const FlaggedStudy study, FlaggedStudy::Create(flags.study));
  const std::vector<Variant> variants = VariantsOf(study.model(), ids);
  const absl::StatusOr<std::vector<ScoredRun>> runs =
      study.Train("scorecard", variants);
  if (absl::IsCancelled(runs.status())) return kInterruptedExitCode;
  RETURN_IF_ERROR(runs.status());

  std::vector<ClaimResult> results;
  nlohmann::json json = study.Json(variants, *runs);
  json["claims"] = nlohmann::json::array();
  for (const Claim& claim : kClaims) {
    if (ids.count(claim.id) == 0) continue;
    results.push_back(claim.measure(*runs));
    if (results.back().id == "A2") {
      RETURN_IF_ERROR(AddRoutingTime(variants, results.back()));
    }
    json["claims"].push_back(ToJson(results.back()));
  }

  const std::string base = study.out() + "/scorecard";
  RETURN_IF_ERROR(WriteFileAtomically(base + ".json", json.dump(1) + "\n"));
  RETURN_IF_ERROR(WriteFileAtomically(
      base + ".html", ScorecardPage(results, *runs, json["manifest"])));
  if (flags.study.json) {
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
  AddStudyFlags(*scorecard, "scorecard.json, scorecard.html", flags->study);
  return {scorecard, [flags] { return RunScorecard(*flags); }};
}

}  // namespace strata
