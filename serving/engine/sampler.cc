#include "serving/engine/sampler.h"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
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

int TokenSampler::BucketOf(float weight) {
  uint32_t bits;
  std::memcpy(&bits, &weight, sizeof(bits));
  return static_cast<int>(bits >> kBucketShift);
}

void TokenSampler::FillBuckets() {
  sum_.fill(0);
  count_.fill(0);
  for (const float w : weight_) {
    const int bucket = BucketOf(w);
    sum_[bucket] += w;
    count_[bucket] += w > 0 ? 1 : 0;
  }
}

void TokenSampler::Collect(int bucket) {
  ids_.clear();
  ids_.reserve(weight_.size());
  for (size_t i = 0; i < weight_.size(); ++i) {
    if (weight_[i] > 0 && BucketOf(weight_[i]) == bucket) {
      ids_.push_back(static_cast<int32_t>(i));
    }
  }
}

template <typename Reached>
int64_t TokenSampler::Select(absl::Span<const float> logits, int64_t count,
                             double before, Reached reached) {
  const auto better = [&](int32_t a, int32_t b) {
    return logits[a] != logits[b] ? logits[a] > logits[b] : a < b;
  };
  int64_t begin = 0, end = count;  // Where the rank is.
  while (begin < end) {
    // The middle one of three as pivot, of whose betters the sum decides.
    int32_t& first = ids_[begin];
    int32_t& middle = ids_[begin + (end - begin) / 2];
    int32_t& last = ids_[end - 1];
    if (better(first, middle)) std::swap(first, middle);
    if (better(last, middle)) std::swap(last, middle);
    if (better(last, first)) std::swap(last, first);
    const int32_t pivot = ids_[begin];
    int64_t split = begin + 1;
    double sum = 0;
    for (int64_t i = begin + 1; i < end; ++i) {
      if (!better(ids_[i], pivot)) continue;
      sum += weight_[ids_[i]];
      std::swap(ids_[i], ids_[split++]);
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

template <typename Reached>
TokenSampler::Kept TokenSampler::Cut(absl::Span<const float> logits,
                                     const Kept& kept, Reached reached) {
  Kept cut;
  cut.bucket = kNumBuckets - 1;
  for (; cut.bucket > kept.bucket; --cut.bucket) {
    if (count_[cut.bucket] == 0) continue;
    if (reached(cut.above + sum_[cut.bucket])) break;
    cut.above += sum_[cut.bucket];
  }
  int64_t count = kept.count;
  if (cut.bucket != kept.bucket || kept.count < 0) {
    Collect(cut.bucket);
    count = static_cast<int64_t>(ids_.size());
  }
  cut.count = 1 + Select(logits, count, cut.above, reached);
  for (int64_t i = 0; i < cut.count; ++i) cut.inside += weight_[ids_[i]];
  return cut;
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
  Weigh(logits, *best);
  FillBuckets();

  Kept kept;  // At first everything: the lowest bucket, whole, and all above.
  while (count_[kept.bucket] == 0) ++kept.bucket;
  kept.inside = sum_[kept.bucket];
  for (int b = kNumBuckets - 1; b > kept.bucket; --b) kept.above += sum_[b];

  const auto k = options_.top_k;
  if (k > 0 && k < static_cast<int64_t>(logits.size())) {
    int64_t above = 0;  // Tokens of buckets that are kept whole.
    int bucket = kNumBuckets - 1;
    double sum = 0;
    for (; bucket > kept.bucket && above + count_[bucket] < k; --bucket) {
      above += count_[bucket];
      sum += sum_[bucket];
    }
    Collect(bucket);
    kept.bucket = bucket;
    kept.above = sum;
    kept.count = std::min<int64_t>(k - above, ids_.size());
    if (kept.count < static_cast<int64_t>(ids_.size())) {
      std::nth_element(ids_.begin(), ids_.begin() + kept.count, ids_.end(),
                       [&](int32_t a, int32_t b) {
                         return logits[a] != logits[b] ? logits[a] > logits[b]
                                                       : a < b;
                       });
    }
    kept.inside = 0;
    for (int64_t i = 0; i < kept.count; ++i) kept.inside += weight_[ids_[i]];
  }
  if (options_.top_p < 1) {
    const double wanted = options_.top_p * (kept.above + kept.inside);
    kept = Cut(logits, kept, [&](double sum) { return sum >= wanted; });
  }
  const double target = uniform * (kept.above + kept.inside);
  const Kept drawn =
      Cut(logits, kept, [&](double sum) { return sum > target; });
  return ids_[drawn.count - 1];
}

}  // namespace strata
