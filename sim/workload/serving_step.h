// One forward pass of serving: prefill of whole prompts, or a token for each
// sequence of a batch.
//
//   layers' forward costs (layer_cost.h), attention against the KV cache when
//   decoding, dispatch and combine --> seconds a step --> tokens a second
//
// Experts over ep ranks, attention by data parallel ranks (dp), TP within; the
// stages of pp follow each other, several batches in flight keep all busy.
// `epo` overlaps two half batches: dispatch of one under the other's compute.

#ifndef SIM_WORKLOAD_SERVING_STEP_H_
#define SIM_WORKLOAD_SERVING_STEP_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "nlohmann/json.hpp"
#include "sim/memory/footprint.h"
#include "sim/workload/training_step.h"

namespace strata::sim {

enum class ServingPhase { kPrefill, kDecode };

// Returns INVALID_ARGUMENT for other than "prefill" and "decode".
absl::StatusOr<ServingPhase> ParseServingPhase(absl::string_view name);

struct ServingRequest {
  ServingPhase phase = ServingPhase::kDecode;
  int64_t batch = 1;       // Sequences of a data parallel rank.
  int64_t context = 4096;  // Tokens of each prompt, or in its cache.
};

struct ServingResult {
  ServingRequest request;
  double seconds = 0;  // Prefill: to the first token. Decode: a token.
  double tokens_per_second_per_gpu = 0;
  std::vector<StepPart> parts;
  Footprint memory;
};

// Returns the error of a kernel or a collective.
absl::StatusOr<ServingResult> SimulateServing(const StepInputs& inputs,
                                              const ServingRequest& request);

std::string Summary(const ServingResult& result);
nlohmann::ordered_json ToJson(const ServingResult& result);

}  // namespace strata::sim

#endif  // SIM_WORKLOAD_SERVING_STEP_H_
