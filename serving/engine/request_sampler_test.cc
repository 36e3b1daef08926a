#include "serving/engine/request_sampler.h"

#include <cmath>
#include <cstdint>
#include <limits>
#include <vector>

#include "absl/status/status.h"
#include "core/testing/status_matchers.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace strata {
namespace {

using ::testing::HasSubstr;

RequestSampling Greedy() {
  RequestSampling options;
  options.draw.temperature = 0;
  return options;
}

TEST(RequestSamplerTest, WithoutOptionsItIsTheTokenSampler) {
  RequestSampling options;
  options.draw.seed = 3;
  RequestSampler sampler(options, {0});
  TokenSampler plain(options.draw);
  const std::vector<float> logits = {0.1f, 0.2f, -1, 0.5f};
  for (int i = 0; i < 50; ++i) {
    EXPECT_EQ(sampler.Draw(logits), plain.Draw(logits));
  }
}

TEST(RequestSamplerTest, BiasMovesALogit) {
  RequestSampling options = Greedy();
  options.logit_bias = {{2, 5}, {0, -100}};
  RequestSampler sampler(options, {});
  EXPECT_EQ(sampler.Draw({9, 1, 0, 4}), 2);
}

TEST(RequestSamplerTest, RepetitionPenaltyDividesAboveZeroAndMultipliesBelow) {
  RequestSampling options = Greedy();
  options.repetition_penalty = 2;
  // 0 is in the prompt: 4 / 2 = 2 loses to 3.
  RequestSampler above(options, {0, 0});
  EXPECT_EQ(above.Draw({4, 3}), 1);
  // Now 1 was drawn: 3 / 2 loses to 4 / 2.
  EXPECT_EQ(above.Draw({4, 3}), 0);
  // -1 * 2 loses to -1.5.
  RequestSampler below(options, {0});
  EXPECT_EQ(below.Draw({-1, -1.5f}), 1);
}

TEST(RequestSamplerTest, PresenceCountsOnceAndFrequencyEachTime) {
  RequestSampling options = Greedy();
  options.presence_penalty = 1;
  RequestSampler presence(options, {0});
  // The prompt does not count. 5, then 4 > 3.5 twice over: still 0.
  EXPECT_EQ(presence.Draw({5, 3.5f}), 0);
  EXPECT_EQ(presence.Draw({5, 3.5f}), 0);
  EXPECT_EQ(presence.Draw({5, 3.5f}), 0);

  options.presence_penalty = 0;
  options.frequency_penalty = 1;
  RequestSampler frequency(options, {});
  EXPECT_EQ(frequency.Draw({5, 3.5f}), 0);
  EXPECT_EQ(frequency.Draw({5, 3.5f}), 0);
  EXPECT_EQ(frequency.Draw({5, 3.5f}), 1) << "3 against 3.5";
}

TEST(RequestSamplerTest, MinPKeepsWhatIsLikelyBesideTheMostLikely) {
  RequestSampling options;
  options.min_p = 0.3;
  // Probabilities in proportion to 10, 4, 2: the last is below 0.3 * 10.
  const std::vector<float> logits = {std::log(10.f), std::log(4.f),
                                     std::log(2.f)};
  RequestSampler sampler(options, {});
  std::vector<int> count(3);
  for (int i = 0; i < 300; ++i) ++count[sampler.Draw(logits)];
  EXPECT_GT(count[0], 0);
  EXPECT_GT(count[1], 0);
  EXPECT_EQ(count[2], 0);

  // At temperature 2 the ratios are roots: 2 / 10 becomes 0.45.
  options.draw.temperature = 2;
  RequestSampler warm(options, {});
  std::vector<int> warm_count(3);
  for (int i = 0; i < 300; ++i) ++warm_count[warm.Draw(logits)];
  EXPECT_GT(warm_count[2], 0);
}

TEST(RequestSamplingTest, RejectsWhatIsOutOfRange) {
  constexpr auto kInvalid = absl::StatusCode::kInvalidArgument;
  const double nan = std::numeric_limits<double>::quiet_NaN();
  EXPECT_THAT(Validate(RequestSampling(), 10), IsOk());
  RequestSampling o;
  o.draw.top_p = 2;
  EXPECT_THAT(Validate(o, 10), StatusIs(kInvalid, HasSubstr("top_p is 2")));
  o = {};
  o.min_p = 1.5;
  EXPECT_THAT(Validate(o, 10), StatusIs(kInvalid, HasSubstr("min_p is 1.5")));
  o = {};
  o.presence_penalty = -3;
  EXPECT_THAT(Validate(o, 10), StatusIs(kInvalid, HasSubstr("presence")));
  o = {};
  o.frequency_penalty = nan;
  EXPECT_THAT(Validate(o, 10), StatusIs(kInvalid, HasSubstr("frequency")));
  o = {};
  o.repetition_penalty = 0;
  EXPECT_THAT(Validate(o, 10), StatusIs(kInvalid, HasSubstr("repetition")));
  o = {};
  o.logit_bias = {{10, 1}};
  EXPECT_THAT(Validate(o, 10), StatusIs(kInvalid, HasSubstr("token 10")));
}

TEST(LogprobsTest, AreOfTheSoftmax) {
  // exp gives 1, 6, 3: shares 0.1, 0.6, 0.3.
  const std::vector<float> logits = {0, std::log(6.f), std::log(3.f)};

  const std::vector<TokenLogprob> got = Logprobs(logits, 2, 2);

  ASSERT_EQ(got.size(), 3);
  EXPECT_EQ(got[0].token, 2);
  EXPECT_NEAR(got[0].logprob, std::log(0.3), 1e-6);
  EXPECT_EQ(got[1].token, 1);
  EXPECT_NEAR(got[1].logprob, std::log(0.6), 1e-6);
  EXPECT_EQ(got[2].token, 2);
}

}  // namespace
}  // namespace strata
