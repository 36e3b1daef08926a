#include "core/cpu/gate.h"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <numeric>
#include <random>
#include <string>
#include <vector>

#include "core/graph/builder.h"
#include "core/ops/gate.h"
#include "core/testing/grad_check.h"
#include "core/testing/graph_run.h"
#include "core/testing/status_matchers.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace strata {
namespace {

using ::testing::Each;
using ::testing::ElementsAre;
using ::testing::ElementsAreArray;
using ::testing::FloatNear;

constexpr float kNan = std::numeric_limits<float>::quiet_NaN();

std::vector<float> RandomFloats(int64_t n, int seed, float step = 0) {
  std::mt19937 rng(seed);
  std::uniform_real_distribution<float> uniform(0, 1);
  std::vector<float> values(n);
  for (float& x : values) {
    x = uniform(rng);
    if (step > 0) x = std::round(x / step) * step;  // Makes ties.
  }
  return values;
}

std::vector<uint8_t> RandomMask(int64_t n, int seed) {
  std::mt19937 rng(seed);
  std::vector<uint8_t> mask(n);
  for (uint8_t& m : mask) m = rng() % 2;
  return mask;
}

// Indexes of `score` from the best to the worst, ties to the lower index.
std::vector<int32_t> Ranking(const std::vector<float>& score) {
  std::vector<int32_t> order(score.size());
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(),
                   [&](int32_t a, int32_t b) { return score[a] > score[b]; });
  return order;
}

std::vector<float> Row(const std::vector<float>& x, int64_t i, int64_t n) {
  return {x.begin() + i * n, x.begin() + (i + 1) * n};
}

// --- EnergySignature ---

std::vector<float> RunEnergySignature(int64_t t, int64_t d, int64_t groups,
                                      const std::vector<float>& x) {
  GraphRun run(
      [&](GraphBuilder& b) {
        const ValueId in = b.Input("x", DType::kF32, {Static(t), Static(d)});
        b.Output("s", EnergySignature(b, in, groups));
      },
      {RegisterGateKernels});
  run.Set("x", x);
  EXPECT_THAT(run.Run(), IsOk());
  return run.Get<float>("s");
}

TEST(EnergySignatureTest, IsTheSharesOfTheRowsNorm) {
  // Slices (3, 4) and (0, 12): norms 5 and 12, of the row 13; times sqrt(2).
  EXPECT_THAT(RunEnergySignature(1, 4, 2, {3, 4, 0, 12}),
              ElementsAre(FloatNear(5 * std::sqrt(2.f) / 13, 1e-6),
                          FloatNear(12 * std::sqrt(2.f) / 13, 1e-6)));
}

TEST(EnergySignatureTest, OfAnEvenRowIsOnesAndOfAZeroRowZeros) {
  EXPECT_THAT(RunEnergySignature(2, 6, 3, {2, 2, 2, 2, 2, 2, 0, 0, 0, 0, 0, 0}),
              ElementsAre(FloatNear(1, 1e-6), FloatNear(1, 1e-6),
                          FloatNear(1, 1e-6), 0, 0, 0));
}

TEST(EnergySignatureTest, SurvivesRowsAsSmallAsFloatsGo) {
  // 1e-22 squared is a denormal float; its reciprocal overflows.
  EXPECT_THAT(RunEnergySignature(1, 2, 2, {1e-22f, 0}),
              ElementsAre(FloatNear(std::sqrt(2.f), 1e-6), 0));
}

// --- CoarseFilter ---

std::vector<uint8_t> RunCoarseFilter(int64_t t, int64_t experts, int64_t keep,
                                     const std::vector<float>& score,
                                     const std::vector<float>& bias,
                                     int num_threads = 2) {
  GraphRun run(
      [&](GraphBuilder& b) {
        const ValueId s =
            b.Input("score", DType::kF32, {Static(t), Static(experts)});
        const ValueId c = b.State("bias", DType::kF32, {Static(experts)});
        b.Output("mask", CoarseFilter(b, s, c, keep));
      },
      {RegisterGateKernels}, {DType::kF32, num_threads});
  run.Set("score", score);
  run.Set("bias", bias);
  EXPECT_THAT(run.Run(), IsOk());
  return run.Get<uint8_t>("mask");
}

TEST(CoarseFilterTest, KeepsTheBestByScoreAndBias) {
  // Sums: 0.6, 0.5, 0.9, 0.1.
  EXPECT_THAT(
      RunCoarseFilter(1, 4, 2, {0.1f, 0.5f, 0.9f, 0.1f}, {0.5f, 0, 0, 0}),
      ElementsAre(1, 0, 1, 0));
}

TEST(CoarseFilterTest, BreaksTiesTowardsTheLowerExpert) {
  EXPECT_THAT(RunCoarseFilter(1, 4, 2, {0, 7, 0, 0}, {0, 0, 0, 0}),
              ElementsAre(1, 1, 0, 0));
  EXPECT_THAT(RunCoarseFilter(1, 3, 1, {-0.f, 0.f, 0.f}, {0, 0, 0}),
              ElementsAre(1, 0, 0));
}

TEST(CoarseFilterTest, DropsNanFirstAndStillKeepsTheRightNumber) {
  EXPECT_THAT(RunCoarseFilter(1, 4, 2, {kNan, -3, kNan, -4}, {0, 0, 0, 0}),
              ElementsAre(0, 1, 0, 1));
  EXPECT_THAT(RunCoarseFilter(1, 2, 1, {kNan, kNan}, {0, 0}),
              ElementsAre(1, 0));
}

TEST(CoarseFilterTest, AgreesWithSortingTheRow) {
  for (const int experts : {1, 2, 7, 32, 130, 256}) {
    for (const int keep : {1, (experts + 1) / 2, experts}) {
      const int t = 2 * 16384 / experts + 1;  // More than two chunks of rows.
      const std::vector<float> score =
          RandomFloats(t * experts, experts, /*step=*/1.f / 16);
      const std::vector<float> bias = RandomFloats(experts, 7, 1.f / 4);

      const std::vector<uint8_t> mask =
          RunCoarseFilter(t, experts, keep, score, bias);

      for (int i = 0; i < t; ++i) {
        std::vector<float> sum = Row(score, i, experts);
        for (int e = 0; e < experts; ++e) sum[e] += bias[e];
        const std::vector<int32_t> order = Ranking(sum);
        std::vector<uint8_t> want(experts, 0);
        for (int j = 0; j < keep; ++j) want[order[j]] = 1;
        ASSERT_THAT(std::vector<uint8_t>(mask.begin() + i * experts,
                                         mask.begin() + (i + 1) * experts),
                    ElementsAreArray(want));
      }
      EXPECT_EQ(mask, RunCoarseFilter(t, experts, keep, score, bias, 1));
      EXPECT_EQ(mask, RunCoarseFilter(t, experts, keep, score, bias, 3));
    }
  }
}

// --- AdaptiveSelect ---

struct Choice {
  std::vector<int32_t> expert;
  std::vector<uint8_t> stay;
};

Choice RunAdaptiveSelect(int64_t t, int64_t experts,
                         const AdaptiveSelectOptions& options,
                         const std::vector<float>& p,
                         const std::vector<uint8_t>& mask,
                         const std::vector<float>& bias, int num_threads = 2) {
  GraphRun run(
      [&](GraphBuilder& b) {
        const Dims dims = {Static(t), Static(experts)};
        const Selection selection = AdaptiveSelect(
            b, b.Input("p", DType::kF32, dims),
            b.Input("mask", DType::kU8, dims),
            b.State("bias", DType::kF32, {Static(experts)}), options);
        b.Output("expert", selection.expert);
        b.Output("stay", selection.stay);
      },
      {RegisterGateKernels}, {DType::kF32, num_threads});
  run.Set("p", p);
  run.Set("mask", mask);
  run.Set("bias", bias);
  EXPECT_THAT(run.Run(), IsOk());
  return {run.Get<int32_t>("expert"), run.Get<uint8_t>("stay")};
}

TEST(AdaptiveSelectTest, TakesTheFewestThatPassTheShare) {
  AdaptiveSelectOptions options;
  options.tau = 0.7;
  options.k_max = 3;
  // The sum is 2. 0.8 is 40 %, 0.8 + 0.5 is 65 %, 0.8 + 0.5 + 0.4 is 85 %.
  const Choice three = RunAdaptiveSelect(
      1, 4, options, {0.4f, 0.8f, 0.3f, 0.5f}, {1, 1, 1, 1}, {0, 0, 0, 0});
  // Without the last survivor the sum is 1.5; 0.8 + 0.4 is 80 %.
  const Choice two = RunAdaptiveSelect(1, 4, options, {0.4f, 0.8f, 0.3f, 0.5f},
                                       {1, 1, 1, 0}, {0, 0, 0, 0});

  EXPECT_THAT(three.expert, ElementsAre(1, 3, 0));
  EXPECT_THAT(two.expert, ElementsAre(1, 0, -1));
  EXPECT_THAT(two.stay, ElementsAre(1));
}

TEST(AdaptiveSelectTest, ChoosesWithTheBiasAndCountsWithout) {
  AdaptiveSelectOptions options;
  options.tau = 0.5;
  options.k_max = 3;

  // The bias puts expert 2 first; its 0.1 of 1.0 is not half, with 0.6 it is.
  const Choice choice = RunAdaptiveSelect(1, 3, options, {0.3f, 0.6f, 0.1f},
                                          {1, 1, 1}, {0, 0, 0.9f});

  EXPECT_THAT(choice.expert, ElementsAre(2, 1, -1));
}

TEST(AdaptiveSelectTest, StaysWithinTheBounds) {
  AdaptiveSelectOptions options;
  options.k_min = 2;
  options.k_max = 2;
  options.tau = 0.01;
  EXPECT_THAT(
      RunAdaptiveSelect(1, 3, options, {0.9f, 0.1f, 0.1f}, {1, 1, 1}, {0, 0, 0})
          .expert,
      ElementsAre(0, 1));
  options.tau = 1;
  EXPECT_THAT(
      RunAdaptiveSelect(1, 3, options, {0.3f, 0.3f, 0.3f}, {1, 1, 1}, {0, 0, 0})
          .expert,
      ElementsAre(0, 1));
  // One survivor, though k_min is two.
  EXPECT_THAT(
      RunAdaptiveSelect(1, 3, options, {0.3f, 0.3f, 0.3f}, {0, 0, 1}, {0, 0, 0})
          .expert,
      ElementsAre(2, -1));
}

TEST(AdaptiveSelectTest, ATokenWithNoExpertWorthItsCostLeaves) {
  AdaptiveSelectOptions options;
  options.exit_threshold = 0.5;
  options.k_max = 2;

  // The largest p that survives is 0.4, 0.5, 0.2 (0.9 does not survive), none.
  const Choice choice = RunAdaptiveSelect(
      4, 2, options, {0.4f, 0.1f, 0.5f, 0.1f, 0.9f, 0.2f, 0.9f, 0.9f},
      {1, 1, 1, 1, 0, 1, 0, 0}, {0, 0});

  EXPECT_THAT(choice.stay, ElementsAre(0, 1, 0, 0));
  EXPECT_THAT(choice.expert, ElementsAre(-1, -1, 0, -1, -1, -1, -1, -1));
}

TEST(AdaptiveSelectTest, AgreesWithSortingTheRow) {
  for (const int experts : {1, 5, 48, 256}) {
    AdaptiveSelectOptions options;
    options.tau = 0.3;
    options.k_max = std::min(experts, 9);
    options.k_min = std::min(experts, 2);
    options.exit_threshold = 0.8;
    const int t = 2 * 16384 / experts + 1;
    const std::vector<float> p =
        RandomFloats(t * experts, experts, /*step=*/1.f / 16);
    const std::vector<uint8_t> mask = RandomMask(t * experts, experts);
    const std::vector<float> bias = RandomFloats(experts, 7, 1.f / 4);

    const Choice choice = RunAdaptiveSelect(t, experts, options, p, mask, bias);

    for (int i = 0; i < t; ++i) {
      // Steps of 1/16 add up exactly, in any order.
      std::vector<float> key(experts, -1);
      float sum = 0, largest = -1;
      for (int e = 0; e < experts; ++e) {
        if (mask[i * experts + e] == 0) continue;
        key[e] = p[i * experts + e] + bias[e];
        sum += p[i * experts + e];
        largest = std::max(largest, p[i * experts + e]);
      }
      std::vector<int32_t> want;
      float taken = 0;
      for (const int32_t e : Ranking(key)) {
        const auto size = static_cast<int64_t>(want.size());
        if (key[e] < 0 || largest < 0.8 || size == options.k_max) break;
        if (size >= options.k_min && taken >= 0.3 * sum) break;
        want.push_back(e);
        taken += p[i * experts + e];
      }
      ASSERT_EQ(choice.stay[i], want.empty() ? 0 : 1);
      want.resize(options.k_max, -1);
      ASSERT_THAT(
          std::vector<int32_t>(choice.expert.begin() + i * options.k_max,
                               choice.expert.begin() + (i + 1) * options.k_max),
          ElementsAreArray(want));
    }
    for (const int num_threads : {1, 3}) {
      const Choice again =
          RunAdaptiveSelect(t, experts, options, p, mask, bias, num_threads);
      EXPECT_EQ(choice.expert, again.expert);
      EXPECT_EQ(choice.stay, again.stay);
    }
  }
}

// --- TopKSelect ---

std::vector<int32_t> RunTopK(int64_t t, int64_t experts,
                             const TopKOptions& options,
                             const std::vector<float>& score,
                             const std::vector<float>& bias = {},
                             int num_threads = 2) {
  GraphRun run(
      [&](GraphBuilder& b) {
        const ValueId s =
            b.Input("score", DType::kF32, {Static(t), Static(experts)});
        const ValueId c = bias.empty()
                              ? kNone
                              : b.State("bias", DType::kF32, {Static(experts)});
        b.Output("expert", TopKSelect(b, s, c, options));
      },
      {RegisterGateKernels}, {DType::kF32, num_threads});
  run.Set("score", score);
  if (!bias.empty()) run.Set("bias", bias);
  EXPECT_THAT(run.Run(), IsOk());
  return run.Get<int32_t>("expert");
}

TEST(TopKSelectTest, TakesTheLargestBestFirst) {
  TopKOptions options;
  options.k = 3;
  EXPECT_THAT(RunTopK(1, 4, options, {0.2f, 0.9f, 0.2f, 0.4f}),
              ElementsAre(1, 3, 0));
  EXPECT_THAT(RunTopK(1, 4, options, {0.2f, 0.9f, 0.2f, 0.4f}, {0, 0, 1, 0}),
              ElementsAre(2, 1, 3));
}

TEST(TopKSelectTest, LooksOnlyAtTheGroupsWithTheBestTwo) {
  TopKOptions options;
  options.k = 2;
  options.num_groups = 3;
  options.top_groups = 1;
  // Groups of three count 0.9 + 0.1, 0.6 + 0.5 and 0.6 + 0.5: the second wins
  // its tie with the third, and the best expert of all is not looked at.
  EXPECT_THAT(RunTopK(1, 9, options,
                      {0.9f, 0.1f, 0.1f, 0.5f, 0.6f, 0.4f, 0.6f, 0.5f, 0.5f}),
              ElementsAre(4, 3));
}

TEST(TopKSelectTest, NamesDistinctExpertsWhateverTheScores) {
  TopKOptions options;
  options.k = 3;
  options.num_groups = 2;
  options.top_groups = 2;
  EXPECT_THAT(RunTopK(1, 4, options, {kNan, kNan, kNan, kNan}),
              ElementsAre(0, 1, 2));
  options.top_groups = 1;
  options.k = 2;
  const float inf = std::numeric_limits<float>::infinity();
  EXPECT_THAT(RunTopK(1, 4, options, {kNan, 1, -inf, -inf}), ElementsAre(2, 3));
}

TEST(TopKSelectTest, AgreesWithSortingTheRow) {
  struct Case {
    int experts, k, num_groups, top_groups;
  };
  for (const Case& c :
       {Case{1, 1, 1, 1}, Case{5, 5, 1, 1}, Case{8, 2, 1, 1}, Case{64, 6, 8, 3},
        Case{256, 8, 8, 4}, Case{6, 2, 6, 3}, Case{300, 40, 3, 2}}) {
    TopKOptions options;
    options.k = c.k;
    options.num_groups = c.num_groups;
    options.top_groups = c.top_groups;
    const int t = 2 * 16384 / c.experts + 1;
    const std::vector<float> score =
        RandomFloats(t * c.experts, c.experts, /*step=*/1.f / 32);
    const std::vector<float> bias = RandomFloats(c.experts, 3, 1.f / 4);

    const std::vector<int32_t> expert =
        RunTopK(t, c.experts, options, score, bias);

    const int width = c.experts / c.num_groups;
    for (int i = 0; i < t; ++i) {
      std::vector<float> sum = Row(score, i, c.experts);
      for (int e = 0; e < c.experts; ++e) sum[e] += bias[e];
      std::vector<float> of_group;
      for (int g = 0; g < c.num_groups; ++g) {
        std::vector<float> group = Row(sum, g, width);
        std::sort(group.rbegin(), group.rend());
        of_group.push_back(group[0] + (width > 1 ? group[1] : 0));
      }
      const std::vector<int32_t> groups = Ranking(of_group);
      for (int j = c.top_groups; j < c.num_groups; ++j) {
        std::fill_n(sum.begin() + groups[j] * width, width, -1e9f);
      }
      std::vector<int32_t> want = Ranking(sum);
      want.resize(c.k);
      ASSERT_THAT(std::vector<int32_t>(expert.begin() + i * c.k,
                                       expert.begin() + (i + 1) * c.k),
                  ElementsAreArray(want));
    }
    EXPECT_EQ(expert, RunTopK(t, c.experts, options, score, bias, 1));
    EXPECT_EQ(expert, RunTopK(t, c.experts, options, score, bias, 3));
  }
}

// --- SelectedWeight ---

std::vector<float> RunSelectedWeight(bool normalize, double scale,
                                     const std::vector<float>& p,
                                     const std::vector<int32_t>& expert) {
  GraphRun run(
      [&](GraphBuilder& b) {
        const ValueId in = b.Input("p", DType::kF32, {Static(2), Static(3)});
        const ValueId e =
            b.Input("expert", DType::kI32, {Static(2), Static(2)});
        b.Output("weight", SelectedWeight(b, in, e, normalize, scale));
      },
      {RegisterGateKernels});
  run.Set("p", p);
  run.Set("expert", expert);
  EXPECT_THAT(run.Run(), IsOk());
  return run.Get<float>("weight");
}

TEST(SelectedWeightTest, IsTheChosenScoresScaled) {
  EXPECT_THAT(RunSelectedWeight(false, 2, {0.1f, 0.2f, 0.3f, 0.4f, 0.5f, 0.6f},
                                {2, 0, 1, -1}),
              ElementsAre(FloatNear(0.6f, 1e-6), FloatNear(0.2f, 1e-6),
                          FloatNear(1, 1e-6), 0));
}

TEST(SelectedWeightTest, NormalizedAddsUpToTheScale) {
  // 0.3 and 0.1 of 0.4; a lone one; times 2.5.
  EXPECT_THAT(RunSelectedWeight(true, 2.5, {0.1f, 0.2f, 0.3f, 0.4f, 0.5f, 0.6f},
                                {2, 0, 1, -1}),
              ElementsAre(FloatNear(1.875f, 1e-5), FloatNear(0.625f, 1e-5),
                          FloatNear(2.5f, 1e-5), 0));
}

TEST(SelectedWeightTest, NormalizedWithoutAnyChoiceIsZero) {
  EXPECT_THAT(RunSelectedWeight(true, 1, {0, 0, 0, 1, 1, 1}, {0, 1, -1, -1}),
              Each(0));
}

// Three rows of four experts; the last one chooses nothing.
bool FillChoice(const std::string& name, const TensorView& view) {
  if (name == "expert") {
    const std::vector<int32_t> expert = {2, 0, 3, 1, -1, -1, -1, -1, -1};
    std::copy(expert.begin(), expert.end(), view.as<int32_t>());
    return true;
  }
  if (name == "mask") {
    const std::vector<uint8_t> mask = {1, 0, 1, 1, 0, 0, 1, 0, 1, 1, 0, 1};
    std::copy(mask.begin(), mask.end(), view.as<uint8_t>());
    return true;
  }
  if (name == "p") {  // As probabilities are.
    const std::vector<float> p = RandomFloats(view.num_elements(), 3);
    for (size_t i = 0; i < p.size(); ++i) view.as<double>()[i] = 0.1 + p[i];
    return true;
  }
  return false;
}

TEST(SelectedWeightTest, GradientAgreesWithDifferences) {
  GradCheckOptions options;
  options.fill = FillChoice;
  for (const bool normalize : {false, true}) {
    EXPECT_THAT(
        CheckGradients(
            [&](GraphBuilder& b) -> std::vector<ValueId> {
              return {SelectedWeight(
                  b, b.Input("p", DType::kF64, {Static(3), Static(4)}),
                  b.Input("expert", DType::kI32, {Static(3), Static(3)}),
                  normalize, /*scale=*/2.5)};
            },
            {RegisterGateKernels}, options),
        IsOk());
  }
}

// --- CoarseDistill, ExpectedCost ---

// Runs both losses, and their gradients for a unit seed, over `t` of 3 rows.
struct Losses {
  float distill = 0, cost = 0;
};
Losses RunLosses(int32_t t, const std::vector<float>& c,
                 const std::vector<float>& p,
                 const std::vector<uint8_t>& mask) {
  GraphRun run(
      [&](GraphBuilder& b) {
        const ValueId count = b.Input("t", DType::kI32, {});
        const Dims dims = {Ragged(3, count), Static(2)};
        const ValueId in = b.Input("c", DType::kF32, dims);
        const ValueId score = b.Input("p", DType::kF32, dims);
        const ValueId survives = b.Input("mask", DType::kU8, dims);
        b.Output("distill", CoarseDistill(b, in, score, survives));
        b.Output("cost", ExpectedCost(b, score, survives));
      },
      {RegisterGateKernels});
  run.Set<int32_t>("t", {t});
  run.Set("c", c);
  run.Set("p", p);
  run.Set("mask", mask);
  EXPECT_THAT(run.Run(), IsOk());
  return {run.Get<float>("distill")[0], run.Get<float>("cost")[0]};
}

TEST(CoarseDistillTest, IsTheMeanCrossEntropyOfTheSurvivors) {
  // sigmoid(0) = 1/2: log 2 whatever p is. At c = log 3, sigmoid is 3/4:
  // -0.25 log(3/4) - 0.75 log(1/4) = log 4 - 0.25 log 3.
  const Losses losses =
      RunLosses(2, {0, std::log(3.f), 5, 5}, {0.9f, 0.25f, 1, 1}, {1, 1, 0, 0});

  EXPECT_NEAR(losses.distill,
              (std::log(2) + std::log(4) - 0.25 * std::log(3)) / 2, 1e-6);
}

TEST(CoarseDistillTest, StaysFiniteForLargeScores) {
  EXPECT_NEAR(RunLosses(1, {200, -200}, {1, 0.5f}, {1, 1}).distill, 50, 1e-4);
}

TEST(ExpectedCostTest, IsTheMeanScoreOfTheSurvivors) {
  EXPECT_NEAR(
      RunLosses(2, {0, 0, 0, 0}, {0.9f, 0.3f, 0.1f, 1}, {1, 0, 1, 1}).cost,
      2.0 / 3, 1e-6);
}

TEST(ExpectedCostTest, OfNoTokensOrNoSurvivorsIsZero) {
  EXPECT_EQ(RunLosses(0, {1, 1}, {1, 1}, {1, 1}).cost, 0);
  EXPECT_EQ(RunLosses(0, {1, 1}, {1, 1}, {1, 1}).distill, 0);
  EXPECT_EQ(RunLosses(1, {1, 1}, {1, 1}, {0, 0}).cost, 0);
  EXPECT_EQ(RunLosses(1, {1, 1}, {1, 1}, {0, 0}).distill, 0);
}

TEST(CoarseDistillTest, GradientReachesTheCoarseScoreAlone) {
  GradCheckOptions options;
  options.fill = FillChoice;
  // p counts as a constant, so it is a state, which is not varied.
  EXPECT_THAT(
      CheckGradients(
          [](GraphBuilder& b) -> std::vector<ValueId> {
            const Dims dims = {Static(3), Static(4)};
            const ValueId c = b.Input("c", DType::kF64, dims);
            const ValueId p = b.State("p", DType::kF64, dims);
            return {CoarseDistill(b, c, p, b.Input("mask", DType::kU8, dims))};
          },
          {RegisterGateKernels}, options),
      IsOk());
}

TEST(ExpectedCostTest, GradientAgreesWithDifferences) {
  GradCheckOptions options;
  options.fill = FillChoice;
  EXPECT_THAT(CheckGradients(
                  [](GraphBuilder& b) -> std::vector<ValueId> {
                    const Dims dims = {Static(3), Static(4)};
                    return {ExpectedCost(b, b.Input("p", DType::kF64, dims),
                                         b.Input("mask", DType::kU8, dims))};
                  },
                  {RegisterGateKernels}, options),
              IsOk());
}

TEST(CoarseDistillTest, IsBitEqualForAnyNumberOfThreads) {
  const int64_t t = 1000, experts = 50;  // Four chunks of elements.
  const auto run_with = [&](int num_threads) {
    GraphRun run(
        [&](GraphBuilder& b) {
          const Dims dims = {Static(t), Static(experts)};
          const ValueId c = b.Input("c", DType::kF32, dims);
          const ValueId p = b.Input("p", DType::kF32, dims);
          const ValueId mask = b.Input("mask", DType::kU8, dims);
          const ValueId loss = CoarseDistill(b, c, p, mask);
          const ValueId cost = ExpectedCost(b, p, mask);
          b.Output("loss", loss);
          b.Output("cost", cost);
          b.Output("dc", b.Add1(kCoarseDistillGrad, {loss, c, p, mask}));
          b.Output("dp", b.Add1(kExpectedCostGrad, {cost, p, mask}));
        },
        {RegisterGateKernels}, {DType::kF32, num_threads});
    run.Set("c", RandomFloats(t * experts, 1));
    run.Set("p", RandomFloats(t * experts, 2));
    run.Set("mask", RandomMask(t * experts, 3));
    EXPECT_THAT(run.Run(), IsOk());
    std::vector<float> all;
    for (const char* name : {"loss", "cost", "dc", "dp"}) {
      const std::vector<float> values = run.Get<float>(name);
      all.insert(all.end(), values.begin(), values.end());
    }
    return all;
  };

  const std::vector<float> want = run_with(1);

  EXPECT_EQ(run_with(2), want);
  EXPECT_EQ(run_with(3), want);
}

// --- LoadBias ---

TEST(LoadBiasTest, RaisesTheStarvedAndLowersTheOverloaded) {
  LoadBiasOptions options;
  options.ema_decay = 0.5;
  options.gain_p = 0.1;
  options.gain_i = 0.02;
  GraphRun run(
      [&](GraphBuilder& b) {
        const Dims dims = {Static(2)};
        LoadBias(b, b.Input("offset", DType::kI32, {Static(3)}),
                 b.State("ema", DType::kF32, dims),
                 b.State("integral", DType::kF32, dims),
                 b.State("bias", DType::kF32, dims), options);
        EXPECT_EQ(b.graph().nodes().back().phase, Phase::kUpdate);
        EXPECT_EQ(b.phase(), Phase::kForward);
      },
      {RegisterGateKernels});

  // Expert 0 gets all 8 rows. From an even 0.5, 0.5 the averages go to 0.75
  // and 0.25, so the errors are -0.5 and 0.5: 0.05 + 0.01 of bias.
  run.Set<int32_t>("offset", {0, 8, 8});
  ASSERT_THAT(run.Run(), IsOk());

  EXPECT_THAT(run.Get<float>("ema"),
              ElementsAre(FloatNear(0.75, 1e-6), FloatNear(0.25, 1e-6)));
  EXPECT_THAT(run.Get<float>("integral"),
              ElementsAre(FloatNear(-0.01, 1e-6), FloatNear(0.01, 1e-6)));
  EXPECT_THAT(run.Get<float>("bias"),
              ElementsAre(FloatNear(-0.06, 1e-6), FloatNear(0.06, 1e-6)));
}

TEST(LoadBiasTest, AStepWithoutRowsChangesNothing) {
  GraphRun run(
      [&](GraphBuilder& b) {
        const Dims dims = {Static(2)};
        LoadBias(b, b.Input("offset", DType::kI32, {Static(3)}),
                 b.State("ema", DType::kF64, dims),
                 b.State("integral", DType::kF64, dims),
                 b.State("bias", DType::kF64, dims), {});
      },
      {RegisterGateKernels});
  run.Set<double>("bias", {0.25, -0.25});
  run.Set<int32_t>("offset", {0, 0, 0});

  ASSERT_THAT(run.Run(), IsOk());

  EXPECT_THAT(run.Get<double>("bias"), ElementsAre(0.25, -0.25));
}

}  // namespace
}  // namespace strata
