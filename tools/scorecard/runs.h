// The runs behind the claims: each variant trained for each seed, several at a
// time, each on one thread; results do not depend on how many.
//
// A run that is done is a file of the folder, and is not done again: a study
// that was stopped goes on. The file's name has a hash of what the run was made
// from (configs, seed, data), so that nothing stale is taken. A run that was
// not probed and now is to be is made again.

#ifndef TOOLS_SCORECARD_RUNS_H_
#define TOOLS_SCORECARD_RUNS_H_

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "nlohmann/json.hpp"
#include "tools/scorecard/redundancy.h"
#include "tools/scorecard/variants.h"
#include "training/config.pb.h"
#include "training/data/corpus.h"
#include "training/metrics.h"

namespace strata {

struct ScoredRun {
  std::string variant;
  uint64_t seed = 0;
  double bits_per_byte = 0;  // Of the validation after the last step.
  double accuracy = 0;
  ExpertUse experts;
  nlohmann::json validation;         // With the load of every expert.
  double seconds = 0;                // Of training.
  double train_flops_per_token = 0;  // Of experts, forward, mean over steps.

  // Of variants to be probed only.
  double cold_start_steps = 0;  // cold_start.h, from the middle of training.
  double redundancy = 0;        // redundancy.h, after the last step.
  nlohmann::json probes;        // What those were computed from; null: none.
};

struct StudyOptions {
  TrainConfig train;
  std::vector<uint64_t> seeds;
  std::string folder;  // Gets a file a run.
  int num_jobs = 1;    // Runs at a time.
  int64_t cold_start_steps = 100;
  RedundancyOptions redundancy;
};

struct StudyObserver {
  // Steps done of all runs to be done. Called from one thread at a time.
  std::function<void(int64_t done, int64_t all)> on_step;
  std::function<void(const ScoredRun&)> on_run;
};

// All runs, in the order of variants, then seeds. Asks `stop` between steps.
//
// Returns CANCELLED if stopped (finished runs are kept), or the first error of
// a run; a run's file that is damaged is an error that names it.
absl::StatusOr<std::vector<ScoredRun>> TrainAll(
    const std::vector<Variant>& variants, const StudyOptions& options,
    const Corpus& corpus, const StudyObserver& observer,
    const std::function<bool()>& stop);

nlohmann::json ToJson(const ScoredRun& run);

}  // namespace strata

#endif  // TOOLS_SCORECARD_RUNS_H_
