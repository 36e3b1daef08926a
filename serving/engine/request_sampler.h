// What a request may ask of its sampling, beyond temperature, top-k and top-p.
//
//   logits
//     |  + logit_bias
//     |  repetition: of tokens in prompt or answer, / r if above 0, else * r
//     |  - presence if in the answer - frequency * times in the answer
//     |  constraint: without tokens that must not come
//     |  min_p: without tokens whose probability (at the temperature) is
//     |  below min_p times the largest
//     v  TokenSampler: temperature, top-k, top-p, draw
//   token

#ifndef SERVING_ENGINE_REQUEST_SAMPLER_H_
#define SERVING_ENGINE_REQUEST_SAMPLER_H_

#include <cstdint>
#include <memory>
#include <utility>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/container/flat_hash_set.h"
#include "absl/status/status.h"
#include "absl/types/span.h"
#include "serving/engine/sampler.h"
#include "serving/engine/token_constraint.h"

namespace strata {

struct RequestSampling {
  SamplingOptions draw;
  double min_p = 0;               // In [0, 1]; 0: all tokens.
  double repetition_penalty = 1;  // Above 0; 1: none.
  double presence_penalty = 0;    // In [-2, 2].
  double frequency_penalty = 0;   // In [-2, 2].
  std::vector<std::pair<int32_t, double>> logit_bias;  // By token, finite.
  // What the answer may be; null: anything. Bias and penalties do not make
  // tokens possible that it forbids.
  MakeTokenConstraint constraint;
};

// Returns INVALID_ARGUMENT that names the option if one is out of range or
// logit_bias names a token outside the vocabulary.
absl::Status Validate(const RequestSampling& options, int64_t vocab_size);

// Draws the tokens of one answer. The n-th draw depends on the options, the
// prompt, the tokens drawn before and the logits alone.
class RequestSampler {
 public:
  // `options` must be valid.
  RequestSampler(const RequestSampling& options,
                 absl::Span<const int32_t> prompt);

  // The next token, of logits [vocab] that are no NaN; -1 if the constraint
  // allows none.
  int32_t Draw(absl::Span<const float> logits);

  // Whether the constraint lets nothing follow what was drawn.
  bool ended() const { return constraint_ != nullptr && constraint_->ended(); }

 private:
  RequestSampling options_;
  TokenSampler sampler_;
  std::unique_ptr<TokenConstraint> constraint_;
  absl::flat_hash_set<int32_t> in_prompt_;           // If r is not 1.
  absl::flat_hash_map<int32_t, int64_t> num_drawn_;  // By token.
  std::vector<float> adjusted_;                      // Scratch.
};

struct TokenLogprob {
  int32_t token = 0;
  float logprob = 0;  // Natural logarithm of the probability.
};

// Log-probabilities under softmax(logits), the model's own: `token` first, then
// the `count` most likely, of equals the lower id first.
std::vector<TokenLogprob> Logprobs(absl::Span<const float> logits,
                                   int32_t token, int64_t count);

}  // namespace strata

#endif  // SERVING_ENGINE_REQUEST_SAMPLER_H_
