// How long routing takes: the gates of one block on random tokens, without the
// experts.

#ifndef TOOLS_SCORECARD_ROUTING_TIME_H_
#define TOOLS_SCORECARD_ROUTING_TIME_H_

#include <cstdint>
#include <vector>

#include "absl/status/statusor.h"
#include "core/model/config.pb.h"

namespace strata {

// Milliseconds of each of `repeats` runs on one thread of the CPU, after one
// that is not counted; of a flat gate, or of all tiers' gates in turn.
absl::StatusOr<std::vector<double>> RoutingMilliseconds(
    const ModelConfig& config, int64_t num_tokens, int repeats);

}  // namespace strata

#endif  // TOOLS_SCORECARD_ROUTING_TIME_H_
