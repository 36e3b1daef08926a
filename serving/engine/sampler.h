// From logits to the next token.

#ifndef SERVING_ENGINE_SAMPLER_H_
#define SERVING_ENGINE_SAMPLER_H_

#include <cstdint>
#include <vector>

#include "absl/status/status.h"
#include "absl/types/span.h"
#include "core/base/random.h"

namespace strata {

struct SamplingOptions {
  double temperature = 1.0;  // 0: the most likely token, always.
  int64_t top_k = 0;         // Of the most likely tokens; 0: all.
  double top_p = 1.0;        // The fewest whose probabilities add up to this.
  uint64_t seed = 0;
};

// Returns INVALID_ARGUMENT that names the option if one is out of range.
absl::Status Validate(const SamplingOptions& options);

// Draws tokens one after another; the n-th draw depends on the seed, n and the
// logits alone.
class TokenSampler {
 public:
  explicit TokenSampler(const SamplingOptions& options);

  // Filters by top_k, then by top_p, of softmax(logits / temperature), and
  // draws. Of equal logits the lower id is the more likely.
  int32_t Draw(absl::Span<const float> logits);

 private:
  SamplingOptions options_;
  Random random_;
  std::vector<int32_t> order_;  // Scratch.
  std::vector<double> probability_;
};

}  // namespace strata

#endif  // SERVING_ENGINE_SAMPLER_H_
