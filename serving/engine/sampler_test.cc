#include "serving/engine/sampler.h"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <numeric>
#include <random>
#include <set>
#include <vector>

#include "absl/status/status.h"
#include "absl/types/span.h"
#include "core/base/random.h"
#include "core/testing/status_matchers.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace strata {
namespace {

using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

constexpr float kInfinity = std::numeric_limits<float>::infinity();

std::vector<int32_t> Draws(const SamplingOptions& options,
                           absl::Span<const float> logits, int n) {
  TokenSampler sampler(options);
  std::vector<int32_t> draws;
  for (int i = 0; i < n; ++i) draws.push_back(sampler.Draw(logits));
  return draws;
}

std::set<int32_t> Support(const SamplingOptions& options,
                          absl::Span<const float> logits) {
  const std::vector<int32_t> draws = Draws(options, logits, 2000);
  return {draws.begin(), draws.end()};
}

std::vector<double> Frequencies(const SamplingOptions& options,
                                absl::Span<const float> logits, int n) {
  std::vector<double> frequency(logits.size());
  for (const int32_t token : Draws(options, logits, n)) {
    frequency[token] += 1.0 / n;
  }
  return frequency;
}

// Logits whose softmax is `probability`.
std::vector<float> LogitsOf(const std::vector<double>& probability) {
  std::vector<float> logits;
  for (const double p : probability) {
    logits.push_back(static_cast<float>(std::log(p)) + 3.0f);
  }
  return logits;
}

TEST(TokenSamplerTest, SkipsToTheDrawOfThatNumber) {
  const std::vector<float> logits(50, 0);
  const std::vector<int32_t> all = Draws({}, logits, 10);
  TokenSampler sampler({});
  sampler.SkipTo(0);
  EXPECT_EQ(sampler.Draw(logits), all[0]);
  sampler.SkipTo(4);
  EXPECT_EQ(sampler.Draw(logits), all[4]);
  EXPECT_EQ(sampler.Draw(logits), all[5]);
  sampler.SkipTo(9);
  EXPECT_EQ(sampler.Draw(logits), all[9]);
}

TEST(TokenSamplerTest, TemperatureZeroTakesTheMostLikely) {
  SamplingOptions options;
  options.temperature = 0;

  EXPECT_THAT(Draws(options, {1, 5, -2, 4}, 3), ElementsAre(1, 1, 1));
}

TEST(TokenSamplerTest, TemperatureZeroBreaksTiesTowardsTheLowerId) {
  SamplingOptions options;
  options.temperature = 0;

  EXPECT_THAT(Draws(options, {1, 5, 5, 4}, 2), ElementsAre(1, 1));
}

TEST(TokenSamplerTest, TopKKeepsTheMostLikely) {
  SamplingOptions options;
  options.top_k = 2;

  EXPECT_THAT(Support(options, LogitsOf({0.1, 0.3, 0.2, 0.4})),
              ElementsAre(1, 3));
}

TEST(TokenSamplerTest, TopKBreaksTiesTowardsTheLowerId) {
  SamplingOptions options;
  options.top_k = 3;

  EXPECT_THAT(Support(options, {2, 2, 3, 2}), ElementsAre(0, 1, 2));
}

// Cumulative 0.4, 0.7, 0.9, 1: 0.7 needs two tokens, 0.71 needs three. (0.69
// and not 0.7, which rounding of the logits may fail to reach.)
TEST(TokenSamplerTest, TopPKeepsTheFewestThatReachIt) {
  const std::vector<float> logits = LogitsOf({0.1, 0.3, 0.2, 0.4});
  SamplingOptions options;

  options.top_p = 0.39;
  EXPECT_THAT(Support(options, logits), ElementsAre(3));
  options.top_p = 0.69;
  EXPECT_THAT(Support(options, logits), ElementsAre(1, 3));
  options.top_p = 0.71;
  EXPECT_THAT(Support(options, logits), ElementsAre(1, 2, 3));
}

// Four equal tokens: the first two make exactly one half.
TEST(TokenSamplerTest, TopPCountsAProbabilityThatReachesItExactly) {
  SamplingOptions options;
  options.top_p = 0.5;

  EXPECT_THAT(Support(options, {1, 1, 1, 1}), ElementsAre(0, 1));
}

// Top-k leaves 0.4 and 0.3, which become 4/7 = 0.571 and 3/7: 0.5 needs only
// the first. Of all four tokens, 0.5 would need both.
TEST(TokenSamplerTest, TopPIsOfWhatTopKLeft) {
  SamplingOptions options;
  options.top_k = 2;
  options.top_p = 0.5;

  EXPECT_THAT(Support(options, LogitsOf({0.1, 0.3, 0.2, 0.4})), ElementsAre(3));
}

TEST(TokenSamplerTest, FiltersThatRemoveNothingChangeNothing) {
  const std::vector<float> logits = LogitsOf({0.1, 0.3, 0.2, 0.4});
  SamplingOptions top_k;
  top_k.top_k = 5;

  EXPECT_EQ(Draws(top_k, logits, 500), Draws({}, logits, 500));
}

TEST(TokenSamplerTest, SameSeedSameDrawsOtherSeedOthers) {
  const std::vector<float> logits = LogitsOf({0.1, 0.3, 0.2, 0.4});
  SamplingOptions other;
  other.seed = 1;

  EXPECT_EQ(Draws({}, logits, 100), Draws({}, logits, 100));
  EXPECT_NE(Draws({}, logits, 100), Draws(other, logits, 100));
}

// Draw n must not depend on what earlier logits were.
TEST(TokenSamplerTest, ADrawDependsOnItsNumberAndItsLogitsAlone) {
  const std::vector<float> logits = LogitsOf({0.1, 0.3, 0.2, 0.4});
  TokenSampler one({});
  TokenSampler another({});
  for (int i = 0; i < 20; ++i) {
    one.Draw({1, 2, 3});
    another.Draw({0, 0, 0, 0, -kInfinity, 9});

    EXPECT_EQ(one.Draw(logits), another.Draw(logits));
  }
}

// The definition, by sorting: tokens best first, cut by top_k, then top_p, then
// the first at which the weights add up to more than the share drawn.
int32_t DrawBySorting(const SamplingOptions& options,
                      absl::Span<const float> logits, double uniform) {
  std::vector<int32_t> ids(logits.size());
  std::iota(ids.begin(), ids.end(), 0);
  std::stable_sort(ids.begin(), ids.end(),
                   [&](int32_t a, int32_t b) { return logits[a] > logits[b]; });
  if (options.top_k > 0 && options.top_k < static_cast<int64_t>(ids.size())) {
    ids.resize(options.top_k);
  }
  const auto weight = [&](int32_t id) {
    return std::exp((logits[id] - logits[ids[0]]) / options.temperature);
  };
  double mass = 0;
  for (const int32_t id : ids) mass += weight(id);
  double kept = 0;
  size_t count = 0;
  while (count < ids.size() && kept < options.top_p * mass) {
    kept += weight(ids[count++]);
  }
  double sum = 0;
  for (size_t i = 0; i < count; ++i) {
    sum += weight(ids[i]);
    if (sum > uniform * kept) return ids[i];
  }
  return ids[count - 1];
}

// Flat and peaked distributions, so that the few heaviest tokens suffice or do
// not. A draw within 1e-7 of a boundary might go the other way by rounding; of
// these, none does.
TEST(TokenSamplerTest, DrawsAsIfTokensWereSorted) {
  std::mt19937 rng(3);
  for (const int vocab : {2, 3, 17, 500}) {
    for (const float spread : {0.1f, 1.0f, 8.0f}) {
      for (const int top_k : {0, 1, 5, 40}) {
        for (const double top_p : {0.3, 0.9, 1.0}) {
          std::normal_distribution<float> normal(0, spread);
          std::vector<float> logits(vocab);
          for (float& logit : logits) logit = std::round(8 * normal(rng)) / 8;
          SamplingOptions options;
          options.top_k = top_k;
          options.top_p = top_p - 1e-3;  // No sum of few equals reaches that.
          options.seed = vocab + top_k;
          TokenSampler sampler(options);
          Random random(options.seed, HashName("sampler"));
          for (int i = 0; i < 30; ++i) {
            EXPECT_EQ(sampler.Draw(logits),
                      DrawBySorting(options, logits, random.Uniform()));
          }
        }
      }
    }
  }
}

// A chi-square of 15 degrees of freedom is above 37.7 once in a thousand; the
// seed is fixed, so the test passes always or never.
TEST(TokenSamplerTest, FrequenciesFollowTheSoftmax) {
  std::mt19937 rng(4);
  std::normal_distribution<float> normal;
  std::vector<float> logits(16);
  for (float& logit : logits) logit = normal(rng);
  SamplingOptions options;
  options.temperature = 0.8;
  constexpr int kDraws = 100000;

  const std::vector<double> frequency = Frequencies(options, logits, kDraws);

  double sum = 0;
  for (const float logit : logits) sum += std::exp(logit / 0.8);
  double chi_square = 0;
  for (size_t i = 0; i < logits.size(); ++i) {
    const double want = std::exp(logits[i] / 0.8) / sum;
    chi_square += kDraws * (frequency[i] - want) * (frequency[i] - want) / want;
  }
  EXPECT_LT(chi_square, 37.7);
}

// 0.4 and 0.3 become 4/7 and 3/7. The standard deviation of a frequency over
// 40000 draws is below 0.0025; four of them.
TEST(TokenSamplerTest, WhatIsKeptSharesTheMassInProportion) {
  SamplingOptions options;
  options.top_p = 0.69;

  const std::vector<double> frequency =
      Frequencies(options, LogitsOf({0.1, 0.3, 0.2, 0.4}), 40000);

  EXPECT_NEAR(frequency[3], 4.0 / 7, 0.01);
  EXPECT_NEAR(frequency[1], 3.0 / 7, 0.01);
}

TEST(TokenSamplerTest, LowTemperatureSharpensAndHighFlattens) {
  const std::vector<float> logits = LogitsOf({0.4, 0.6});
  SamplingOptions sharp;
  sharp.temperature = 0.01;  // (2/3)^100: 1e-18
  SamplingOptions flat;
  flat.temperature = 1e6;

  EXPECT_THAT(Support(sharp, logits), ElementsAre(1));
  EXPECT_NEAR(Frequencies(flat, logits, 40000)[0], 0.5, 0.01);
}

TEST(TokenSamplerTest, TinyTemperatureIsTheMostLikely) {
  SamplingOptions options;
  options.temperature = std::numeric_limits<double>::denorm_min();

  EXPECT_THAT(Support(options, {1, 5, 5, 4}), ElementsAre(1, 2));
}

TEST(TokenSamplerTest, NeverDrawsALogitOfMinusInfinity) {
  const std::vector<float> logits = {-kInfinity, 0, -kInfinity, 0.5,
                                     -kInfinity};
  SamplingOptions top_k;
  top_k.top_k = 4;
  SamplingOptions greedy;
  greedy.temperature = 0;

  EXPECT_THAT(Support({}, logits), ElementsAre(1, 3));
  EXPECT_THAT(Support(top_k, logits), ElementsAre(1, 3));
  EXPECT_THAT(Support(greedy, logits), ElementsAre(3));
}

TEST(TokenSamplerTest, AVocabularyOfOneHasOneAnswer) {
  SamplingOptions filtered;
  filtered.top_k = 1;
  filtered.top_p = 0.1;

  EXPECT_THAT(Support({}, {-7}), ElementsAre(0));
  EXPECT_THAT(Support(filtered, {-kInfinity}), ElementsAre(0));
}

TEST(SamplingOptionsTest, DefaultsAreValid) {
  EXPECT_THAT(Validate(SamplingOptions()), IsOk());
}

TEST(SamplingOptionsTest, TemperatureBelowZeroOrNotFiniteIsInvalid) {
  for (const double temperature :
       {-0.5, std::nan(""), std::numeric_limits<double>::infinity()}) {
    SamplingOptions options;
    options.temperature = temperature;

    EXPECT_THAT(Validate(options), StatusIs(absl::StatusCode::kInvalidArgument,
                                            HasSubstr("temperature is ")));
  }
}

TEST(SamplingOptionsTest, NegativeTopKIsInvalid) {
  SamplingOptions options;
  options.top_k = -3;

  EXPECT_THAT(Validate(options), StatusIs(absl::StatusCode::kInvalidArgument,
                                          HasSubstr("top_k is -3")));
}

TEST(SamplingOptionsTest, TopPOutsideOfZeroToOneIsInvalid) {
  for (const double top_p : {0.0, 1.5, std::nan("")}) {
    SamplingOptions options;
    options.top_p = top_p;

    EXPECT_THAT(Validate(options), StatusIs(absl::StatusCode::kInvalidArgument,
                                            AllOf(HasSubstr("top_p is "),
                                                  HasSubstr("at most 1"))));
  }
}

}  // namespace
}  // namespace strata
