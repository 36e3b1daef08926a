// The choice of experts: CoarseFilter, AdaptiveSelect, TopKSelect,
// ExpertChoice, BalancedSelect.

#include "core/cpu/gate_select.h"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <numeric>
#include <random>
#include <set>
#include <vector>

#include "core/graph/builder.h"
#include "core/ops/gate_select.h"
#include "core/testing/graph_run.h"
#include "core/testing/status_matchers.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace strata {
namespace {

using ::testing::ElementsAre;
using ::testing::ElementsAreArray;

constexpr float kNan = std::numeric_limits<float>::quiet_NaN();

// Multiples of `step` in [0, 1], so that there are ties.
std::vector<float> RandomFloats(int64_t n, int seed, float step) {
  std::mt19937 rng(seed);
  std::uniform_real_distribution<float> uniform(0, 1);
  std::vector<float> values(n);
  for (float& x : values) {
    x = uniform(rng);
    x = std::round(x / step) * step;
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
      {RegisterGateSelectKernels}, {DType::kF32, num_threads});
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

TEST(CoarseFilterTest, WithoutABiasKeepsTheBestByScore) {
  GraphRun run(
      [](GraphBuilder& b) {
        b.Output("mask",
                 CoarseFilter(
                     b, b.Input("score", DType::kF32, {Static(1), Static(3)}),
                     /*bias=*/kNone, /*keep=*/2));
      },
      {RegisterGateSelectKernels});
  run.Set<float>("score", {0.2f, 0.1f, 0.3f});
  ASSERT_THAT(run.Run(), IsOk());

  EXPECT_THAT(run.Get<uint8_t>("mask"), ElementsAre(1, 0, 1));
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
      {RegisterGateSelectKernels}, {DType::kF32, num_threads});
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

TEST(AdaptiveSelectTest, TakesTauFromAValueIfThereIsOne) {
  AdaptiveSelectOptions options;
  options.tau = 0.1;
  options.k_max = 3;
  GraphRun run(
      [&](GraphBuilder& b) {
        options.tau_value = b.Input("tau", DType::kF32, {});
        b.Output(
            "expert",
            AdaptiveSelect(b, b.Input("p", DType::kF32, {Static(1), Static(3)}),
                           /*mask=*/kNone, /*bias=*/kNone, options)
                .expert);
      },
      {RegisterGateSelectKernels});
  run.Set<float>("p", {0.5f, 0.25f, 0.25f});

  // Of a sum of 1: the first passes a half, two pass three quarters.
  run.Set<float>("tau", {0.5f});
  ASSERT_THAT(run.Run(), IsOk());
  EXPECT_THAT(run.Get<int32_t>("expert"), ElementsAre(0, -1, -1));
  run.Set<float>("tau", {0.75f});
  ASSERT_THAT(run.Run(), IsOk());
  EXPECT_THAT(run.Get<int32_t>("expert"), ElementsAre(0, 1, -1));
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
  // Of 130 about 65 survive: some rows are ordered by ranks, some by insertion.
  for (const int experts : {1, 5, 48, 130, 256}) {
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
      {RegisterGateSelectKernels}, {DType::kF32, num_threads});
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

TEST(TopKSelectTest, LooksOnlyAtTheGroupsWithTheBestOne) {
  TopKOptions options;
  options.k = 2;
  options.num_groups = 3;
  options.top_groups = 1;
  options.group_max = true;
  // The first group has the best expert, though the others have two good ones.
  EXPECT_THAT(RunTopK(1, 9, options,
                      {0.9f, 0.2f, 0.1f, 0.5f, 0.6f, 0.4f, 0.6f, 0.5f, 0.5f}),
              ElementsAre(0, 1));
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

// --- ExpertChoice ---

std::vector<int32_t> RunExpertChoice(int32_t t, int64_t bound, int64_t experts,
                                     int64_t k, const std::vector<float>& score,
                                     int num_threads = 1) {
  GraphRun run(
      [&](GraphBuilder& b) {
        const ValueId count = b.Input("t", DType::kI32, {});
        b.Output("expert",
                 ExpertChoice(b,
                              b.Input("score", DType::kF32,
                                      {Ragged(bound, count), Static(experts)}),
                              k));
      },
      {RegisterGateSelectKernels}, {DType::kF32, num_threads});
  run.Set<int32_t>("t", {t});
  run.Set("score", score);
  EXPECT_THAT(run.Run(), IsOk());
  return run.Get<int32_t>("expert");
}

TEST(ExpertChoiceTest, EachExpertTakesItsBestTokens) {
  // Four tokens, two experts, one a token on average: two tokens an expert.
  // Expert 0 takes tokens 0 and 2, expert 1 takes 2 and 3; 1 gets none.
  EXPECT_THAT(RunExpertChoice(4, 4, 2, 1,
                              {0.9f, 0.1f, 0.2f, 0.3f, 0.8f, 0.7f, 0.1f, 0.6f}),
              ElementsAre(0, -1, -1, -1, 0, 1, 1, -1));
}

TEST(ExpertChoiceTest, BreaksTiesTowardsTheEarlierToken) {
  EXPECT_THAT(RunExpertChoice(3, 3, 3, 1, std::vector<float>(9, 0.5f)),
              ElementsAre(0, 1, 2, -1, -1, -1, -1, -1, -1));
}

TEST(ExpertChoiceTest, LoadsAllExpertsAlikeOnAnyNumberOfThreads) {
  const int64_t experts = 7, k = 3;
  for (const int32_t t : {0, 1, 2, 50, 101}) {
    const std::vector<float> score = RandomFloats(101 * experts, t + 1, 0.01f);
    const std::vector<int32_t> expert =
        RunExpertChoice(t, 101, experts, k, score);
    std::vector<int64_t> load(experts, 0);
    for (int64_t i = 0; i < t * experts; ++i) {
      if (expert[i] >= 0) ++load[expert[i]];
    }
    EXPECT_THAT(load, testing::Each((t * k + experts - 1) / experts));
    EXPECT_EQ(RunExpertChoice(t, 101, experts, k, score, 3), expert);
  }
}

// --- BalancedSelect ---

std::vector<int32_t> RunBalancedSelect(int32_t t, int64_t bound,
                                       int64_t experts, int64_t k) {
  GraphRun run(
      [&](GraphBuilder& b) {
        const ValueId count = b.Input("t", DType::kI32, {});
        b.Output("expert", BalancedSelect(
                               b,
                               b.Input("score", DType::kF32,
                                       {Ragged(bound, count), Static(experts)}),
                               k));
      },
      {RegisterGateSelectKernels});
  run.Set<int32_t>("t", {t});
  EXPECT_THAT(run.Run(), IsOk());
  return run.Get<int32_t>("expert");
}

TEST(BalancedSelectTest, DealsExpertsOutInTurn) {
  EXPECT_THAT(RunBalancedSelect(3, 4, 4, 3),
              ElementsAre(0, 1, 2, 3, 0, 1, 2, 3, 0));
}

TEST(BalancedSelectTest, LoadsDifferByOneAtMost) {
  for (const int64_t experts : {1, 2, 7, 48}) {
    for (const int64_t k : {int64_t{1}, (experts + 1) / 2, experts}) {
      for (const int32_t t : {0, 1, 5, 48, 101}) {
        const std::vector<int32_t> expert =
            RunBalancedSelect(t, 101, experts, k);
        ASSERT_EQ(static_cast<int64_t>(expert.size()), t * k);
        std::vector<int64_t> load(experts, 0);
        for (int64_t i = 0; i < t; ++i) {
          const std::set<int32_t> of_token(expert.begin() + i * k,
                                           expert.begin() + (i + 1) * k);
          EXPECT_EQ(static_cast<int64_t>(of_token.size()), k);
          for (const int32_t e : of_token) ++load[e];
        }
        const auto [least, most] =
            std::minmax_element(load.begin(), load.end());
        EXPECT_LE(*most - *least, 1);
      }
    }
  }
}

}  // namespace
}  // namespace strata
