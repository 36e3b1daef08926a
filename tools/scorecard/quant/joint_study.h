// Routing and precision together (B5): which experts get twice the bits of the
// others, 4 and 2 or 8 and 4, and a router that is tuned again on what came of
// it.
//
//   one after the other   router tuned on the model in F32;
//                         then more bits for the experts whose weights few
//                         change most, whoever uses them
//   jointly               more bits for the experts whose error in few the
//                         loss feels most, as tokens are routed: each output's
//                         by the mean square of the loss's gradient in it; then
//                         the router tuned on the quantised model
//
// Both tune for as many steps on the same text, quantise by the same
// calibration and have the same bytes. Experts alone differ; the other matrices
// are in 8 bits, gates and norms in F32.

#ifndef TOOLS_SCORECARD_QUANT_JOINT_STUDY_H_
#define TOOLS_SCORECARD_QUANT_JOINT_STUDY_H_

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "nlohmann/json.hpp"
#include "tools/scorecard/claim.h"
#include "training/data/corpus.h"

namespace strata {

struct JointStudyOptions {
  std::string model;  // Folder of a model that Strata trained, of experts.
  uint64_t seed = 1;  // Of the calibration's and the tuning's text.
  int bits = 2;       // Of most experts: 2 or 4; the others have twice as many.
  double share_of_wide = 0.25;  // Of experts, those others.
  int64_t tuning_steps = 60;
  double learning_rate = 5e-4;
  int64_t calibration_tokens = 32768;
  int64_t validation_tokens = 16384;  // Of each domain.
  int num_threads = 1;
};

struct JointOutcome {
  std::string variant;
  double bits_per_byte = 0;
  double accuracy = 0;
  double bits_per_weight = 0;  // Of experts; 32 where nothing is quantised.
};

// The variants, in order.
inline constexpr char kUntouched[] = "F32";
inline constexpr char kTunedF32[] = "F32, router tuned";
inline constexpr char kByWeights[] = "bits by weights";
inline constexpr char kByRouting[] = "bits by routing";
inline constexpr char kTunedByRouting[] = "tuned, then bits by routing";
inline constexpr char kOneByOne[] = "tuned, then bits by weights";
inline constexpr char kJoint[] = "bits by routing, then tuned";

struct JointRun {
  uint64_t seed = 0;
  std::string model;
  int64_t num_experts = 0;
  int bits = 0;
  int64_t num_wide = 0;    // Experts with twice as many.
  int64_t num_shared = 0;  // Of these, in both choices.
  std::vector<JointOutcome> outcomes;
};

// Returns INVALID_ARGUMENT if the model has no experts, and the errors of
// loading, calibration and training. Asks `stop` between steps.
absl::StatusOr<JointRun> RunJointStudy(const Corpus& corpus,
                                       const JointStudyOptions& options,
                                       const std::function<bool()>& stop);

ClaimResult JointPrecision(const std::vector<JointRun>& runs);  // B5

nlohmann::json ToJson(const JointRun& run);

}  // namespace strata

#endif  // TOOLS_SCORECARD_QUANT_JOINT_STUDY_H_
