// From logits to the next token.

#ifndef SERVING_ENGINE_SAMPLER_H_
#define SERVING_ENGINE_SAMPLER_H_

#include <array>
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

  // Filters softmax(logits / temperature) by top_k, then what is left (its
  // probabilities adding up to 1 again) by top_p, and draws. Of equal logits
  // the lower id counts as the more likely. A logit of -infinity is never drawn
  // unless all are. `logits` holds at least one, and no NaN.
  int32_t Draw(absl::Span<const float> logits);

  // Makes the next draw the n-th, counted from 0, leaving out those before it,
  // which must not have been drawn yet.
  void SkipTo(int64_t n);

 private:
  // weight_ in proportion to exp(logit / temperature).
  void Weigh(absl::Span<const float> logits, float best);

  // Weights are sorted into buckets by their exponent and three bits more, so
  // that only the bucket in which something is decided has to be looked into.
  // All are in [0, 1].
  static constexpr int kBucketShift = 20;
  static constexpr int kNumBuckets = 1024;
  static int BucketOf(float weight);
  void FillBuckets();
  void Collect(int bucket);  // Its tokens to ids_.

  // The best tokens: of buckets above one all, of that one the first of ids_.
  struct Kept {
    int bucket = 0;
    int64_t count = -1;  // Of ids_; -1: the bucket is whole, and not collected.
    double above = 0;    // Weight of the buckets above ...
    double inside = 0;   // ... and of the tokens kept of this one.
  };
  // As few of the kept as have a weight that has `reached` what is wanted; the
  // last one of ids_ is the worst of them.
  template <typename Reached>
  Kept Cut(absl::Span<const float> logits, const Kept& kept, Reached reached);

  // Sorts the first `count` of ids_ as far as it takes to find the rank, from
  // 0, at which `before` and the weight of all tokens down to it has `reached`
  // what is wanted; tokens of better rank then stand before it. Linear.
  template <typename Reached>
  int64_t Select(absl::Span<const float> logits, int64_t count, double before,
                 Reached reached);

  SamplingOptions options_;
  Random random_;
  int64_t num_draws_ = 0;
  // Scratch of a draw:
  std::vector<int32_t> ids_;
  std::vector<float> weight_;               // [vocab]
  std::array<double, kNumBuckets> sum_;     // Of the weights of a bucket.
  std::array<int32_t, kNumBuckets> count_;  // Of those above 0.
};

}  // namespace strata

#endif  // SERVING_ENGINE_SAMPLER_H_
