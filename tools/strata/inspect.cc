// strata inspect router

#include <unistd.h>

#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <string>
#include <system_error>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "core/base/files.h"
#include "core/base/status_macros.h"
#include "tools/strata/command.h"
#include "tools/strata/config_flags.h"
#include "tools/strata/option_parser.h"
#include "tools/strata/output.h"
#include "training/data/corpus.h"
#include "training/inspect/router_inspection.h"
#include "training/inspect/router_page.h"
#include "training/run/model_folder.h"

namespace strata {
namespace {

namespace fs = std::filesystem;

// Of each tier, in the table.
constexpr size_t kMostSpecialised = 5;

struct InspectFlags {
  std::string model;
  std::string data;
  std::string html;
  bool json = false;
  InspectOptions options;
};

// Before the model runs, so that nobody waits for a page that cannot be.
absl::Status CheckWritable(const std::string& path) {
  std::error_code ignored;
  if (fs::is_directory(path, ignored)) {
    return FileError(EISDIR, "write", path);
  }
  const std::string folder = fs::path(path).parent_path().string();
  // The dot has it say so if the folder is a file.
  const std::string inside = absl::StrCat(folder.empty() ? "." : folder, "/.");
  if (access(inside.c_str(), W_OK | X_OK) != 0) {
    return FileError(errno, "write", path);
  }
  return absl::OkStatus();
}

std::string Percent(double share) {
  return absl::StrFormat("%.1f %%", 100 * share);
}

std::string TierTable(const RouterInspection& inspection) {
  std::vector<std::vector<std::string>> rows = {
      {"expert and domain", "bits", "corrected", "of H(domain)", "at most",
       "by chance", "95 %", "p", "starved"}};
  for (const InspectedTier& tier : inspection.tiers) {
    rows.push_back({absl::StrCat("tier ", tier.tier + 1),
                    absl::StrFormat("%.4f", tier.specialisation.bits),
                    absl::StrFormat("%.4f", tier.specialisation.corrected_bits),
                    Percent(tier.normalised),
                    absl::StrFormat("%.4f", tier.bound_bits),
                    absl::StrFormat("%.4f", tier.null.mean),
                    absl::StrFormat("%.4f", tier.null.upper),
                    absl::StrFormat("%.3f", tier.null.p_value),
                    absl::StrCat(tier.num_starved, " of ", tier.num_experts)});
  }
  return absl::StrCat(
      FormatTable(rows), "\nbits: mutual information, mean over layers, each ",
      "domain alike; corrected: less\nthe bias of finite samples (Miller and ",
      "Madow, tokens taken for independent); by\nchance, 95 %: mean and 95th ",
      "percentile after shuffling the domains of whole\nwindows of text, ",
      inspection.num_shuffles, " times.\n");
}

std::string ReachTable(const RouterInspection& inspection) {
  std::vector<std::vector<std::string>> rows = {{"tokens that reach"}};
  for (const InspectedDomain& domain : inspection.domains) {
    rows[0].push_back(Printable(domain.name));
  }
  for (const InspectedTier& tier : inspection.tiers) {
    rows.push_back({absl::StrCat("tier ", tier.tier + 1)});
    for (const double share : tier.reached) {
      rows.back().push_back(Percent(share));
    }
  }
  return FormatTable(rows);
}

std::string ExpertTable(const RouterInspection& inspection) {
  std::vector<std::vector<std::string>> rows = {
      {"most specialised", "layer", "expert", "top domain", "share",
       "over even", "load", "bits"}};
  for (const InspectedTier& tier : inspection.tiers) {
    for (const ExpertPlace& place :
         MostSpecialised(inspection.gates, tier.tier, kMostSpecialised)) {
      const int domain = place.top_domain();
      rows.push_back(
          {absl::StrCat("tier ", tier.tier + 1),
           absl::StrCat(place.gate->layer), absl::StrCat(place.expert),
           Printable(inspection.domains[domain].name),
           Percent(place.profile().domain_share[domain]),
           absl::StrFormat("%.2f",
                           place.gate->relative_share(place.expert, domain)),
           absl::StrFormat("%.2f", place.gate->relative_load(place.expert)),
           absl::StrFormat("%.3f", place.profile().bits)});
    }
  }
  return FormatTable(rows);
}

// A line for each tier that has some.
std::string StarvedLines(const RouterInspection& inspection) {
  std::string text;
  for (const InspectedTier& tier : inspection.tiers) {
    std::vector<std::string> names;
    for (const ExpertPlace& place : Starved(inspection.gates, tier.tier)) {
      names.push_back(absl::StrCat(place.gate->layer, ".", place.expert));
    }
    if (names.empty()) continue;
    absl::StrAppend(&text, "starved in tier ", tier.tier + 1,
                    " (layer.expert, load below a tenth of the mean): ",
                    absl::StrJoin(names, " "), "\n");
  }
  return text.empty() ? "" : absl::StrCat("\n", text);
}

absl::StatusOr<int> RunInspectRouter(const InspectFlags& flags) {
  if (!flags.html.empty()) RETURN_IF_ERROR(CheckWritable(flags.html));
  ASSIGN_OR_RETURN(const std::string folder, FindModel(flags.model));
  ASSIGN_OR_RETURN(const Corpus corpus, LoadCorpusFor(folder, flags.data));
  ASSIGN_OR_RETURN(const RouterInspection inspection,
                   InspectRouter(folder, corpus, flags.options));
  if (!flags.html.empty()) {
    RETURN_IF_ERROR(WriteFileAtomically(flags.html, RouterPage(inspection)));
  }
  PrintNotes(corpus);
  for (const std::string& note : inspection.notes) PrintNote(note);
  if (flags.json) {
    PrintJson(ToJson(inspection));
    return 0;
  }
  Print(absl::StrCat(folder, "\n\n", TierTable(inspection), "\n",
                     ReachTable(inspection), "\n", ExpertTable(inspection),
                     StarvedLines(inspection)));
  return 0;
}

}  // namespace

Command AddInspect(OptionParser& app) {
  OptionParser* inspect =
      app.AddSubcommand("inspect", "Show what a model's parts are used for");
  inspect->RequireSubcommand(1, 1);
  OptionParser* router = inspect->AddSubcommand(
      "router",
      "Show which domains of the validation text each expert serves, and how "
      "much of the domain that tells");
  auto flags = std::make_shared<InspectFlags>();
  router
      ->AddOption("--model", flags->model,
                  "Checkpoint, or run of which the newest is taken")
      ->TypeName("DIR")
      ->Required();
  AddData(*router, flags->data);
  router
      ->AddOption("--tokens", flags->options.tokens_per_domain,
                  "Tokens (bytes) of each domain to look at, at most")
      ->TypeName("N")
      ->Check(AtLeast(1));
  AddThreads(*router, flags->options.num_threads);
  AddJson(*router, flags->json);
  router
      ->AddOption("--html", flags->html,
                  "Write a page with a heat map for each layer and tier")
      ->TypeName("FILE");
  return {inspect, [flags] { return RunInspectRouter(*flags); }};
}

}  // namespace strata
