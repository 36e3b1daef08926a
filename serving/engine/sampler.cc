#include "serving/engine/sampler.h"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <numeric>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/types/span.h"
#include "core/base/check.h"

namespace strata {

absl::Status Validate(const SamplingOptions& options) {
  if (!(options.temperature >= 0) || std::isinf(options.temperature)) {
    return absl::InvalidArgumentError(
        absl::StrCat("temperature is ", options.temperature,
                     "; want a finite number of at least 0"));
  }
  if (options.top_k < 0) {
    return absl::InvalidArgumentError(absl::StrCat(
        "top_k is ", options.top_k, "; want at least 1, or 0 for all tokens"));
  }
  if (!(options.top_p > 0 && options.top_p <= 1)) {
    return absl::InvalidArgumentError(absl::StrCat(
        "top_p is ", options.top_p, "; want more than 0 and at most 1"));
  }
  return absl::OkStatus();
}

TokenSampler::TokenSampler(const SamplingOptions& options)
    : options_(options), random_(options.seed, HashName("sampler")) {}

void TokenSampler::SkipTo(int64_t n) {
  CHECK(num_draws_ <= n) << "draw " << n << " after " << num_draws_;
  for (; num_draws_ < n; ++num_draws_) random_.Uniform();
}

int32_t TokenSampler::Draw(absl::Span<const float> logits) {
  CHECK(!logits.empty());
  const double uniform =
      random_.Uniform();  // One a draw, whatever the options.
  ++num_draws_;
  const auto best = std::max_element(logits.begin(), logits.end());
  if (options_.temperature == 0) {
    return static_cast<int32_t>(best - logits.begin());
  }

  const auto n = static_cast<int64_t>(logits.size());
  weight_.resize(n);
  for (int64_t i = 0; i < n; ++i) {
    // Equal infinities have no difference.
    weight_[i] = logits[i] == *best
                     ? 1.0
                     : std::exp((static_cast<double>(logits[i]) - *best) /
                                options_.temperature);
  }

  // A heap gives tokens best first and no more of them than are looked at,
  // mostly few: the i-th best comes to rest at heap_[n - 1 - i].
  heap_.resize(n);
  std::iota(heap_.begin(), heap_.end(), 0);
  const auto worse = [&](int32_t a, int32_t b) {
    return logits[a] != logits[b] ? logits[a] < logits[b] : a > b;
  };
  std::make_heap(heap_.begin(), heap_.end(), worse);
  int64_t num_sorted = 0;
  const auto token = [&](int64_t rank) {
    for (; num_sorted <= rank; ++num_sorted) {
      std::pop_heap(heap_.begin(), heap_.end() - num_sorted, worse);
    }
    return heap_[n - 1 - rank];
  };

  int64_t num_kept = n;
  double mass = 0;
  if (options_.top_k > 0 && options_.top_k < n) {
    num_kept = options_.top_k;
    for (int64_t i = 0; i < num_kept; ++i) mass += weight_[token(i)];
  } else {
    mass = std::accumulate(weight_.begin(), weight_.end(), 0.0);
  }
  if (options_.top_p < 1) {
    const double wanted = options_.top_p * mass;
    mass = 0;
    for (int64_t i = 0; i < num_kept; ++i) {
      mass += weight_[token(i)];
      if (mass >= wanted) num_kept = i + 1;
    }
  }

  const double target = uniform * mass;
  double sum = 0;
  int32_t drawn = token(0);
  for (int64_t i = 0; i < num_kept && sum <= target; ++i) {
    if (weight_[token(i)] == 0) break;  // Rounding left `target` unreached.
    drawn = token(i);
    sum += weight_[drawn];
  }
  return drawn;
}

}  // namespace strata
