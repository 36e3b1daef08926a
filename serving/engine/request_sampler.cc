#include "serving/engine/request_sampler.h"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <numeric>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "core/base/status_macros.h"
#include "serving/engine/sampler.h"

namespace strata {
namespace {

absl::Status WantWithin(absl::string_view name, double value, double min,
                        double max) {
  if (value >= min && value <= max) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat(name, " is ", value, "; want ", min, " to ", max));
}

}  // namespace

absl::Status Validate(const RequestSampling& options, int64_t vocab_size) {
  RETURN_IF_ERROR(Validate(options.draw));
  RETURN_IF_ERROR(WantWithin("min_p", options.min_p, 0, 1));
  RETURN_IF_ERROR(
      WantWithin("presence_penalty", options.presence_penalty, -2, 2));
  RETURN_IF_ERROR(
      WantWithin("frequency_penalty", options.frequency_penalty, -2, 2));
  if (!(options.repetition_penalty > 0) ||
      std::isinf(options.repetition_penalty)) {
    return absl::InvalidArgumentError(
        absl::StrCat("repetition_penalty is ", options.repetition_penalty,
                     "; want a finite number above 0"));
  }
  for (const auto& [token, bias] : options.logit_bias) {
    if (token < 0 || token >= vocab_size || !std::isfinite(bias)) {
      return absl::InvalidArgumentError(absl::StrCat(
          "logit_bias has ", bias, " for token ", token,
          "; want a finite number for a token of 0 to ", vocab_size - 1));
    }
  }
  return absl::OkStatus();
}

RequestSampler::RequestSampler(const RequestSampling& options,
                               absl::Span<const int32_t> prompt)
    : options_(options), sampler_(options.draw) {
  if (options.constraint) constraint_ = options.constraint();
  if (options.repetition_penalty != 1) {
    in_prompt_.insert(prompt.begin(), prompt.end());
  }
}

int32_t RequestSampler::Draw(absl::Span<const float> logits) {
  const bool plain = constraint_ == nullptr && options_.logit_bias.empty() &&
                     options_.min_p == 0 && options_.repetition_penalty == 1 &&
                     options_.presence_penalty == 0 &&
                     options_.frequency_penalty == 0;
  if (plain) return sampler_.Draw(logits);

  adjusted_.assign(logits.begin(), logits.end());
  for (const auto& [token, bias] : options_.logit_bias) {
    adjusted_[token] += static_cast<float>(bias);
  }
  if (options_.repetition_penalty != 1) {
    const auto r = static_cast<float>(options_.repetition_penalty);
    const auto penalise = [&](int32_t token) {
      float& x = adjusted_[token];
      x = x > 0 ? x / r : x * r;
    };
    for (const int32_t token : in_prompt_) penalise(token);
    for (const auto& [token, count] : num_drawn_) {
      if (!in_prompt_.contains(token)) penalise(token);
    }
  }
  for (const auto& [token, count] : num_drawn_) {
    adjusted_[token] -= static_cast<float>(options_.presence_penalty +
                                           options_.frequency_penalty *
                                               static_cast<double>(count));
  }
  if (constraint_ != nullptr && !constraint_->Mask(absl::MakeSpan(adjusted_))) {
    return -1;
  }
  if (options_.min_p > 0 && options_.draw.temperature > 0) {
    // p >= min_p * p_max is x >= x_max + temperature * log(min_p).
    const double least = *std::max_element(adjusted_.begin(), adjusted_.end()) +
                         options_.draw.temperature * std::log(options_.min_p);
    for (float& x : adjusted_) {
      if (x < least) x = -std::numeric_limits<float>::infinity();
    }
  }
  const int32_t token = sampler_.Draw(adjusted_);
  ++num_drawn_[token];
  if (constraint_ != nullptr) constraint_->Take(token);
  return token;
}

std::vector<TokenLogprob> Logprobs(absl::Span<const float> logits,
                                   int32_t token, int64_t count) {
  const double max = *std::max_element(logits.begin(), logits.end());
  double sum = 0;
  for (const float x : logits) sum += std::exp(x - max);
  const double log_sum = max + std::log(sum);
  const auto entry = [&](int32_t id) {
    return TokenLogprob{id, static_cast<float>(logits[id] - log_sum)};
  };
  const auto n = std::min<int64_t>(count, static_cast<int64_t>(logits.size()));
  std::vector<int32_t> ids(logits.size());
  std::iota(ids.begin(), ids.end(), 0);
  std::partial_sort(
      ids.begin(), ids.begin() + n, ids.end(), [&](int32_t a, int32_t b) {
        return logits[a] != logits[b] ? logits[a] > logits[b] : a < b;
      });
  std::vector<TokenLogprob> result = {entry(token)};
  for (int64_t i = 0; i < n; ++i) result.push_back(entry(ids[i]));
  return result;
}

}  // namespace strata
