#include "core/parallel/load_controller.h"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <functional>
#include <numeric>
#include <random>
#include <utility>
#include <vector>

#include "absl/types/span.h"
#include "core/parallel/load_stats.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace strata {
namespace {

using ::testing::Each;
using ::testing::ElementsAre;

template <typename T>
struct State {
  explicit State(int num_experts)
      : ema(num_experts), integral(num_experts), bias(num_experts) {}

  void Update(const LoadControllerConfig& config,
              const std::vector<int64_t>& load) {
    UpdateLoadBias(config, absl::MakeConstSpan(load), absl::MakeSpan(ema),
                   absl::MakeSpan(integral), absl::MakeSpan(bias));
  }

  std::vector<T> ema;       // [num_experts]
  std::vector<T> integral;  // [num_experts]
  std::vector<T> bias;      // [num_experts]
};

template <typename T>
class LoadControllerTest : public ::testing::Test {};
using Types = ::testing::Types<float, double>;
TYPED_TEST_SUITE(LoadControllerTest, Types);

// Shares 3/4 and 1/4; the average starts at an even 1/2 and keeps half:
//   ema      = (1/2 + 3/4) / 2, (1/2 + 1/4) / 2 = 5/8, 3/8
//   error    = 1 - 2 ema                        = -1/4, 1/4
//   integral = 1/8 error                        = -1/32, 1/32
//   bias     = 1/4 error + integral             = -3/32, 3/32
// and once more with the same load:
//   ema = 11/16, 5/16; error = -3/8, 3/8; integral = -1/32 - 3/64 = -5/64
//   bias = -3/32 - 5/64 = -11/64
TYPED_TEST(LoadControllerTest, AgreesWithTwoHandWorkedSteps) {
  const LoadControllerConfig config = {0.5f, 0.25f, 0.125f, 1.0f};
  State<TypeParam> state(2);

  state.Update(config, {6, 2});
  EXPECT_THAT(state.ema, ElementsAre(0.625, 0.375));
  EXPECT_THAT(state.integral, ElementsAre(-1.0 / 32, 1.0 / 32));
  EXPECT_THAT(state.bias, ElementsAre(-3.0 / 32, 3.0 / 32));

  state.Update(config, {6, 2});
  EXPECT_THAT(state.ema, ElementsAre(0.6875, 0.3125));
  EXPECT_THAT(state.integral, ElementsAre(-5.0 / 64, 5.0 / 64));
  EXPECT_THAT(state.bias, ElementsAre(-11.0 / 64, 11.0 / 64));
}

TYPED_TEST(LoadControllerTest, AStepWithoutTokensChangesNothing) {
  State<TypeParam> fresh(3), state(3);
  state.Update({}, {5, 1, 0});
  const State<TypeParam> before = state;

  fresh.Update({}, {0, 0, 0});
  state.Update({}, {0, 0, 0});

  EXPECT_THAT(fresh.ema, Each(0));
  EXPECT_THAT(fresh.bias, Each(0));
  EXPECT_EQ(state.ema, before.ema);
  EXPECT_EQ(state.integral, before.integral);
  EXPECT_EQ(state.bias, before.bias);
}

TYPED_TEST(LoadControllerTest, AnEvenLoadLeavesTheBiasAlone) {
  State<TypeParam> state(48);

  for (int step = 0; step < 1000; ++step) {
    state.Update({}, std::vector<int64_t>(48, 21));
  }

  // An average that is 1/48 but for its rounding has an error of a few epsilon
  // a step; 1000 steps of it at gain_i are below 1e-5.
  for (const TypeParam bias : state.bias) EXPECT_NEAR(bias, 0, 1e-5);
}

TYPED_TEST(LoadControllerTest, TheBiasStaysBoundedAndComesBack) {
  const LoadControllerConfig config;
  State<TypeParam> state(4);

  for (int step = 0; step < 5000; ++step) state.Update(config, {0, 100, 0, 0});
  EXPECT_LE(*std::max_element(state.bias.begin(), state.bias.end()), 1);
  EXPECT_EQ(state.bias[1], -1);

  // Five thousand steps of one kind were not wound up: the average turns within
  // ln 2 / (1 - 0.9) = 7 steps, then each step takes back 0.01 or more.
  int step = 0;
  for (; state.bias[1] < state.bias[0]; ++step) {
    ASSERT_LT(step, 200);
    state.Update(config, {100, 0, 100, 100});
  }
}

// A router whose experts differ by nature: the logit of a token for an expert
// is the expert's skew plus noise. Chooses the best top_k of sigmoid + bias.
class SkewedRouter {
 public:
  SkewedRouter(std::vector<float> skew, int num_tokens, int top_k)
      : skew_(std::move(skew)), num_tokens_(num_tokens), top_k_(top_k) {}

  void set_skew(std::vector<float> skew) { skew_ = std::move(skew); }

  std::vector<int64_t> Route(const std::vector<float>& bias) {
    std::vector<int64_t> load(skew_.size());
    std::vector<std::pair<float, int>> candidate(skew_.size());
    for (int token = 0; token < num_tokens_; ++token) {
      for (size_t e = 0; e < skew_.size(); ++e) {
        const float logit = skew_[e] + normal_(rng_);
        candidate[e] = {1 / (1 + std::exp(-logit)) + bias[e], e};
      }
      std::partial_sort(candidate.begin(), candidate.begin() + top_k_,
                        candidate.end(), std::greater<>());
      for (int k = 0; k < top_k_; ++k) ++load[candidate[k].second];
    }
    return load;
  }

 private:
  std::vector<float> skew_;  // [num_experts]
  int num_tokens_;
  int top_k_;
  std::mt19937 rng_{7};
  std::normal_distribution<float> normal_;
};

// 32 experts, 4 a token, skews spread evenly over [-3, 3]: the expert of rank 0
// is hardly ever among the best four by itself.
TEST(LoadControllerSimulationTest, FeedsTheStarvedAndEvensTheLoad) {
  constexpr int kExperts = 32;
  std::vector<float> skew(kExperts);
  for (int e = 0; e < kExperts; ++e) skew[e] = -3 + 6.f * e / (kExperts - 1);
  SkewedRouter router(skew, /*num_tokens=*/256, /*top_k=*/4);
  State<float> state(kExperts);

  const LoadStats before = ComputeLoadStats(router.Route(state.bias));
  int fed_at = -1;  // First step at which expert 0 has half the mean load.
  std::vector<double> gini;
  for (int step = 0; step < 150; ++step) {
    const std::vector<int64_t> load = router.Route(state.bias);
    const LoadStats stats = ComputeLoadStats(load);
    gini.push_back(stats.gini);
    if (fed_at < 0 && load[0] >= stats.total / kExperts / 2) fed_at = step;
    state.Update({}, load);
    for (const float bias : state.bias) ASSERT_LE(std::abs(bias), 1);
  }
  const LoadStats after = ComputeLoadStats(router.Route(state.bias));

  EXPECT_GT(before.gini, 0.6);
  EXPECT_GT(before.starved_share, 0.3);
  EXPECT_GE(fed_at, 1);
  EXPECT_LE(fed_at, 80);  // The cold start's stated number of steps.
  const double settled = std::accumulate(gini.end() - 50, gini.end(), 0.0) / 50;
  EXPECT_LT(settled, before.gini / 5);
  EXPECT_LT(*std::max_element(gini.end() - 50, gini.end()), before.gini / 4);
  EXPECT_EQ(after.starved_share, 0);
}

// The worst change there is: the most wanted experts become the least wanted.
// The load is back in its band within a bounded number of steps, and once it is
// there it stays: the controller does not swing.
TEST(LoadControllerSimulationTest,
     AStepChangeOfTokensIsEvenedOutWithoutSwings) {
  constexpr int kExperts = 32;
  constexpr int kBackWithin = 200;
  std::vector<float> skew(kExperts);
  for (int e = 0; e < kExperts; ++e) skew[e] = -3 + 6.f * e / (kExperts - 1);
  SkewedRouter router(skew, /*num_tokens=*/256, /*top_k=*/4);
  State<float> state(kExperts);
  const double band = ComputeLoadStats(router.Route(state.bias)).gini / 4;
  for (int step = 0; step < 150; ++step) {
    state.Update({}, router.Route(state.bias));
  }
  std::reverse(skew.begin(), skew.end());
  router.set_skew(skew);

  const auto step_gini = [&] {
    const std::vector<int64_t> load = router.Route(state.bias);
    state.Update({}, load);
    return ComputeLoadStats(load).gini;
  };
  EXPECT_GT(step_gini(), 2 * band);
  int back = 1;
  // Well within: 256 tokens make a Gini noisy at the band's edge.
  while (step_gini() > 0.8 * band && back < kBackWithin) ++back;
  EXPECT_LT(back, kBackWithin);
  for (int step = 0; step < 200; ++step) {
    EXPECT_LT(step_gini(), band) << step << " steps after it was back";
  }
}

// The balance is kept by the bias that stands, not by swinging: frozen, as in
// serving, it balances the same router as well.
TEST(LoadControllerSimulationTest, AFrozenBiasKeepsTheBalance) {
  constexpr int kExperts = 16;
  std::vector<float> skew(kExperts);
  for (int e = 0; e < kExperts; ++e) skew[e] = e < 4 ? 1.5f : -1.f;
  SkewedRouter router(skew, /*num_tokens=*/256, /*top_k=*/2);
  State<float> state(kExperts);
  for (int step = 0; step < 150; ++step) {
    state.Update({}, router.Route(state.bias));
  }

  std::vector<int64_t> load(kExperts);
  for (int step = 0; step < 50; ++step) {
    const std::vector<int64_t> now = router.Route(state.bias);
    for (int e = 0; e < kExperts; ++e) load[e] += now[e];
  }

  EXPECT_LT(ComputeLoadStats(load).gini, 0.15);
}

}  // namespace
}  // namespace strata
