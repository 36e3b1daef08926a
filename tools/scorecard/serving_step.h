// The graph of a step of the serving engine, as serving/engine builds it.

#ifndef TOOLS_SCORECARD_SERVING_STEP_H_
#define TOOLS_SCORECARD_SERVING_STEP_H_

#include <cstdint>

#include "absl/status/statusor.h"
#include "core/graph/graph.h"
#include "core/model/config.pb.h"

namespace strata {

// Of `tokens` tokens at most, of up to 64 sequences of the model's length, in
// basic operators. The rows of every gate are outputs.
absl::StatusOr<Graph> ServingStep(const ModelConfig& config, int64_t tokens);

}  // namespace strata

#endif  // TOOLS_SCORECARD_SERVING_STEP_H_
