// A routing trace with skew of its own: a small model whose router nobody keeps
// even, trained on text of which one domain has the most, and recorded.

#ifndef TOOLS_SCORECARD_SKEWED_ROUTING_H_
#define TOOLS_SCORECARD_SKEWED_ROUTING_H_

#include <cstdint>
#include <functional>
#include <string>

#include "absl/status/status.h"
#include "core/model/config.pb.h"
#include "training/data/corpus.h"

namespace strata {

// Experts of each gate of SkewedModel, and of kC1Model (c1.h).
inline constexpr int64_t kSkewedExperts = 64;

// Two layers, flat top-4 of 64 experts without a loss or bias for balance.
ModelConfig SkewedModel();

// `corpus`, with one domain, chosen by `seed`, five times beside the others
// once.
Corpus SkewedCorpus(const Corpus& corpus, uint64_t seed);

struct SkewedRoutingOptions {
  uint64_t seed = 1;
  int64_t steps = 960;
  std::string path;  // Of the trace, which is replaced if it is there.
};

// Trains SkewedModel on SkewedCorpus and records every step. `on_step` is told
// how many are done; `stop` is asked between steps.
//
// Returns CANCELLED if stopped, or the errors of the trainer and the recording.
absl::Status RecordSkewedRouting(const Corpus& corpus,
                                 const SkewedRoutingOptions& options,
                                 const std::function<void(int64_t)>& on_step,
                                 const std::function<bool()>& stop);

}  // namespace strata

#endif  // TOOLS_SCORECARD_SKEWED_ROUTING_H_
