#include "serving/engine/sampler.h"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/types/span.h"
#include "core/base/check.h"
#include "core/cpu/vector_math.h"

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

void TokenSampler::Weigh(absl::Span<const float> logits, float best) {
  const auto n = static_cast<int64_t>(logits.size());
  weight_.resize(n);
  const double scale = 1 / options_.temperature;
  // Beyond, scaled logits would overflow floats.
  const bool moderate = std::isfinite(best) && std::abs(best) < 1e6 &&
                        scale > 1e-6 && scale < 1e6;
  if (moderate) {
    VectorMath<float>::Get().softmax(logits.data(), static_cast<float>(scale),
                                     n, weight_.data());
    return;
  }
  for (int64_t i = 0; i < n; ++i) {
    // Equal infinities have no difference.
    weight_[i] = logits[i] == best
                     ? 1
                     : static_cast<float>(std::exp(
                           (static_cast<double>(logits[i]) - best) * scale));
  }
}

template <typename Reached>
int64_t TokenSampler::Select(absl::Span<const float> logits, int64_t count,
                             Reached reached) {
  const auto better = [&](int32_t a, int32_t b) {
    return logits[a] != logits[b] ? logits[a] > logits[b] : a < b;
  };
  int64_t begin = 0, end = count;  // Where the rank is.
  double before = 0;               // Weight of ids_ up to `begin`.
  while (begin < end) {
    // The middle one of three as pivot, of whose betters the sum decides.
    int32_t& first = ids_[begin];
    int32_t& middle = ids_[begin + (end - begin) / 2];
    int32_t& last = ids_[end - 1];
    if (better(first, middle)) std::swap(first, middle);
    if (better(last, middle)) std::swap(last, middle);
    if (better(last, first)) std::swap(last, first);
    const int32_t pivot = ids_[begin];
    // Without branches on who is better, which nobody could foresee.
    int64_t split = begin + 1;
    double sum = 0;
    for (int64_t i = begin + 1; i < end; ++i) {
      const int32_t id = ids_[i];
      const bool goes_up = better(id, pivot);
      sum += goes_up ? weight_[id] : 0;
      ids_[i] = ids_[split];
      ids_[split] = id;
      split += goes_up ? 1 : 0;
    }
    // [begin + 1, split) are better than the pivot, which goes behind them.
    std::swap(ids_[begin], ids_[--split]);
    if (split > begin && reached(before + sum)) {
      end = split;
      continue;
    }
    const double with_pivot = before + sum + weight_[pivot];
    if (reached(with_pivot)) return split;
    before = with_pivot;
    begin = split + 1;
  }
  return count - 1;  // Rounding left it unreached.
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
  Weigh(logits, *best);
  const float heaviest = weight_[best - logits.begin()];

  // Of most vocabularies a few tokens have nearly all of the weight: those
  // above a thousandth of the heaviest stand first, and often suffice.
  ids_.resize(n);
  int64_t num_head = 0, num_possible = 0;
  double head = 0, mass = 0;
  const float least = heaviest / 1024;
  for (int64_t i = 0; i < n; ++i) {
    const float w = weight_[i];
    mass += w;
    ids_[num_head] = static_cast<int32_t>(i);
    const bool in_head = w >= least;
    head += in_head ? w : 0;
    num_head += in_head ? 1 : 0;
    num_possible += w > 0 ? 1 : 0;
  }
  bool complete = false;
  const auto complete_ids = [&] {
    if (complete) return;
    complete = true;
    int64_t count = 0;
    for (int64_t i = 0; i < n; ++i) {
      if (weight_[i] > 0) ids_[count++] = static_cast<int32_t>(i);
    }
  };

  int64_t count = num_possible;
  const auto better = [&](int32_t a, int32_t b) {
    return logits[a] != logits[b] ? logits[a] > logits[b] : a < b;
  };
  const auto sum_of = [&](int64_t first) {
    double sum = 0;
    for (int64_t i = 0; i < first; ++i) sum += weight_[ids_[i]];
    return sum;
  };
  if (options_.top_k > 0 && options_.top_k < num_possible) {
    count = options_.top_k;
    if (count > num_head) complete_ids();
    const int64_t among = complete ? num_possible : num_head;
    if (count < among) {
      std::nth_element(ids_.begin(), ids_.begin() + count, ids_.begin() + among,
                       better);
    }
    mass = sum_of(count);
    head = 0;  // The kept ones are all there.
    complete = true;
  }
  if (options_.top_p < 1) {
    const double wanted = options_.top_p * mass;
    if (head < wanted) complete_ids();
    count = 1 + Select(logits, complete ? count : num_head,
                       [&](double sum) { return sum >= wanted; });
    mass = sum_of(count);
    complete = true;
  }
  const double target = uniform * mass;
  if (head <= target) complete_ids();
  return ids_[Select(logits, complete ? count : num_head,
                     [&](double sum) { return sum > target; })];
}

}  // namespace strata
