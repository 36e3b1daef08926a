// strata ablate

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "core/base/files.h"
#include "core/base/progress.h"
#include "core/base/signals.h"
#include "core/base/status_macros.h"
#include "nlohmann/json.hpp"
#include "tools/scorecard/ablation.h"
#include "tools/scorecard/html.h"
#include "tools/scorecard/runs.h"
#include "tools/scorecard/variants.h"
#include "tools/strata/command.h"
#include "tools/strata/option_parser.h"
#include "tools/strata/output.h"
#include "tools/strata/study.h"

namespace strata {
namespace {

std::string AblationTable(const std::vector<AblationRow>& rows) {
  std::vector<std::vector<std::string>> cells = {
      {"model", "parameters", "bits per byte", "more than whole",
       "expert FLOPs", "active", "Gini", "utilisation", "ms a step"}};
  for (const AblationRow& row : rows) {
    cells.push_back({row.what, FormatInteger(row.parameters),
                     FormatSpread(row.bits_per_byte),
                     absl::StrFormat("%+.4f ± %.4f", row.more_bits.mean,
                                     row.more_bits.deviation),
                     FormatCount(row.flops_per_token.mean),
                     absl::StrFormat("%.1f %%", 100 * row.active_share.mean),
                     absl::StrFormat("%.3f", row.gini.mean),
                     absl::StrFormat("%.3f", row.utilisation.mean),
                     absl::StrFormat("%.0f", row.milliseconds.mean)});
  }
  return FormatTable(cells);
}

absl::StatusOr<int> RunAblate(const StudyFlags& flags) {
  ASSIGN_OR_RETURN(const FlaggedStudy study, FlaggedStudy::Create(flags));
  // The whole model first: it says how many experts a fixed number is.
  absl::StatusOr<std::vector<ScoredRun>> runs =
      study.Train("ablate", {{kWhole, study.model()}});
  std::vector<Ablation> ablations;
  std::vector<Variant> variants;
  if (runs.ok()) {
    ablations =
        AblationsOf(study.model(), MeanExpertsPerTier(study.model(), *runs));
    for (const Ablation& ablation : ablations) {
      variants.push_back(ablation.variant);
    }
    runs = study.Train("ablate", variants);
  }
  if (absl::IsCancelled(runs.status())) return kInterruptedExitCode;
  RETURN_IF_ERROR(runs.status());

  const std::vector<AblationRow> rows =
      AblationRows(ablations, *runs, study.steps());
  nlohmann::json json = study.Json(variants, *runs);
  json["ablations"] = nlohmann::json::array();
  for (const AblationRow& row : rows) json["ablations"].push_back(ToJson(row));
  const std::string path = study.out() + "/ablation.json";
  RETURN_IF_ERROR(WriteFileAtomically(path, json.dump(1) + "\n"));
  if (flags.json) {
    PrintJson(json);
    return 0;
  }
  Print(absl::StrCat(AblationTable(rows), "\nwritten to ", path, "\n"));
  return 0;
}

}  // namespace

Command AddAblate(OptionParser& app) {
  OptionParser* ablate = app.AddSubcommand(
      "ablate",
      "Train the hierarchical model with each mechanism of its router off in "
      "turn, and compare");
  auto flags = std::make_shared<StudyFlags>();
  flags->out = "ablation";
  AddStudyFlags(*ablate, "ablation.json", *flags);
  return {ablate, [flags] { return RunAblate(*flags); }};
}

}  // namespace strata
