// What quantised weights cost and save: the runs behind the claims B1 and B4.
//
//   model in floating point --strata quantize, a variant each--> folders
//     |                                                            |
//     |  inputs x of every matrix, on text kept out of calibration |
//     v                                                            v
//   energy of w - w' and of x (w - w')^T;  bits per byte, accuracy, memory
//
// A variant that is done is a folder, and is not done again.

#ifndef TOOLS_SCORECARD_QUANT_QUANTISATION_H_
#define TOOLS_SCORECARD_QUANT_QUANTISATION_H_

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "core/model/config.pb.h"
#include "core/quant/cache_format.h"
#include "core/quant/calibrate.h"
#include "core/quant/format.h"
#include "nlohmann/json.hpp"
#include "tools/scorecard/claim.h"
#include "training/data/corpus.h"

namespace strata {

struct QuantVariant {
  std::string name;
  QuantFormat format;
  CalibrationMethod method = CalibrationMethod::kNearest;
};

// The baseline, round-to-nearest with a scale a row, first; each idea on top of
// the one before; the whole last.
std::vector<QuantVariant> QuantVariants();

struct QuantOutcome {
  std::string variant;
  double bits_per_weight = 0;  // Of the matrices that are quantised, mean.
  QuantError error;            // Sums over them, on the held-out text.
  double bits_per_byte = 0;    // Of the validation.
  double accuracy = 0;
};

// Bytes of what is served: one sequence of `context` tokens.
struct ServedMemory {
  int64_t weights = 0;
  int64_t caches = 0;
  int64_t arena = 0;  // Activations of the larger of prefill and decoding.
  int64_t total() const { return weights + caches + arena; }
};

struct QuantRun {
  uint64_t seed = 0;
  std::string model;
  double bits_per_byte = 0;  // Before.
  double accuracy = 0;
  std::vector<QuantOutcome> outcomes;  // [variants]
  int64_t context = 0;
  ServedMemory baseline;  // Weights and caches in BF16.
  ServedMemory ours;      // Of the last variant, caches in INT8.
};

struct QuantStudyOptions {
  std::string model;   // Folder of a model in floating point.
  std::string folder;  // Gets a folder a variant.
  uint64_t seed = 1;   // Of the calibration's text.
  int64_t calibration_tokens = 65536;
  int64_t held_out_tokens = 32768;
  int64_t context = 256;
  int num_threads = 1;
  // Or only what B1 asks for: the baseline and the whole, without energies,
  // whose moments of all matrices at once are many times a large model's size.
  bool all_variants = true;
};

struct QuantObserver {
  std::function<void(int64_t done, int64_t all)> on_variant;
};

// The same of a model that nobody has trained, from its graphs alone: layers in
// `format`, the output projection in INT8, the embedding in BF16, caches in
// `cache`. `baseline` gets weights and caches in BF16.
absl::StatusOr<ServedMemory> PlanServedMemory(ModelConfig config,
                                              const QuantFormat& format,
                                              CacheFormat cache,
                                              int64_t context,
                                              ServedMemory& baseline);

// `corpus` in the model's tokens. Asks `stop` between layers.
absl::StatusOr<QuantRun> RunQuantStudy(const Corpus& corpus,
                                       const QuantStudyOptions& options,
                                       const QuantObserver& observer,
                                       const std::function<bool()>& stop);

// The claims, of runs of several models.
ClaimResult QuantisedWeights(const std::vector<QuantRun>& runs);     // B1
ClaimResult LearnedCompensation(const std::vector<QuantRun>& runs);  // B4

nlohmann::json ToJson(const QuantRun& run);

}  // namespace strata

#endif  // TOOLS_SCORECARD_QUANT_QUANTISATION_H_
