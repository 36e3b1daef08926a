// What `strata scorecard` and `strata ablate` share: variants of one model,
// trained over several seeds, and what their JSON says of it.

#ifndef TOOLS_STRATA_STUDY_H_
#define TOOLS_STRATA_STUDY_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "nlohmann/json.hpp"
#include "tools/scorecard/runs.h"
#include "tools/scorecard/variants.h"
#include "tools/strata/config_flags.h"
#include "tools/strata/option_parser.h"
#include "training/data/corpus.h"

namespace strata {

struct StudyFlags {
  std::string preset = "demo";
  std::vector<std::string> set;
  std::string data;
  std::string out;
  int64_t steps = 1200;
  uint64_t first_seed = 1;
  int seeds = 3;
  int jobs = 1;
  bool json = false;
};

// `flags` has the defaults; `written` says what lands in --out beside the runs.
void AddStudyFlags(OptionParser& app, const std::string& written,
                   StudyFlags& flags);

class FlaggedStudy {
 public:
  // Returns INVALID_ARGUMENT if the preset, as set, has no hierarchical router.
  static absl::StatusOr<FlaggedStudy> Create(const StudyFlags& flags);

  // Shows progress on stderr under `title`. Returns CANCELLED after Ctrl-C,
  // having said how to go on.
  absl::StatusOr<std::vector<ScoredRun>> Train(
      const std::string& title, const std::vector<Variant>& variants) const;

  // Manifest, training config, and of these variants and runs everything.
  nlohmann::json Json(const std::vector<Variant>& variants,
                      const std::vector<ScoredRun>& runs) const;

  const ModelConfig& model() const { return configs_.model; }
  const std::string& out() const { return out_; }
  int64_t steps() const { return options_.train.steps(); }

 private:
  FlaggedStudy(Configs configs, Corpus corpus, const StudyFlags& flags);

  Configs configs_;
  Corpus corpus_;
  std::string out_;
  StudyOptions options_;
};

}  // namespace strata

#endif  // TOOLS_STRATA_STUDY_H_
