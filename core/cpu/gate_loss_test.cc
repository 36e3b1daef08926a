#include "core/cpu/gate_loss.h"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <random>
#include <string>
#include <vector>

#include "core/graph/builder.h"
#include "core/ops/gate_loss.h"
#include "core/testing/grad_check.h"
#include "core/testing/graph_run.h"
#include "core/testing/status_matchers.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace strata {
namespace {

std::vector<float> RandomFloats(int64_t n, int seed) {
  std::mt19937 rng(seed);
  std::uniform_real_distribution<float> uniform(0, 1);
  std::vector<float> values(n);
  for (float& x : values) x = uniform(rng);
  return values;
}

std::vector<uint8_t> RandomMask(int64_t n, int seed) {
  std::mt19937 rng(seed);
  std::vector<uint8_t> mask(n);
  for (uint8_t& m : mask) m = rng() % 2;
  return mask;
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
      {RegisterGateLossKernels});
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
          {RegisterGateLossKernels}, options),
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
                  {RegisterGateLossKernels}, options),
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
        {RegisterGateLossKernels}, {DType::kF32, num_threads});
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

// --- BalanceLoss ---

float RunBalanceLoss(int64_t t, const std::vector<float>& p,
                     const std::vector<int32_t>& expert,
                     const std::vector<int32_t>& seq_start) {
  GraphRun run(
      [&](GraphBuilder& b) {
        const ValueId in = b.Input("p", DType::kF32, {Static(t), Static(2)});
        const ValueId e =
            b.Input("expert", DType::kI32, {Static(t), Static(1)});
        ValueId start = kNone;
        if (!seq_start.empty()) {
          start = b.Input("seq_start", DType::kI32,
                          {Static(static_cast<int64_t>(seq_start.size()))});
        }
        b.Output("loss", BalanceLoss(b, in, e, start));
      },
      {RegisterGateLossKernels});
  run.Set("p", p);
  run.Set("expert", expert);
  if (!seq_start.empty()) run.Set("seq_start", seq_start);
  EXPECT_THAT(run.Run(), IsOk());
  return run.Get<float>("loss")[0];
}

TEST(BalanceLossTest, IsOneForEvenLoadsAndTheNumberOfExpertsAtWorst) {
  EXPECT_NEAR(RunBalanceLoss(2, {0.5f, 0.5f, 0.5f, 0.5f}, {0, 1}, {}), 1, 1e-6);
  EXPECT_NEAR(RunBalanceLoss(2, {1, 0, 1, 0}, {0, 0}, {}), 2, 1e-6);
}

TEST(BalanceLossTest, TakesTheTokensScoresAsShares) {
  // Shares 3/4, 1/4 and 1/2, 1/2, so P is 5/8, 3/8; f is 2 * (1, 0).
  EXPECT_NEAR(RunBalanceLoss(2, {0.6f, 0.2f, 0.1f, 0.1f}, {0, 0}, {}), 1.25,
              1e-6);
}

TEST(BalanceLossTest, OfSequencesIsTheMeanOfTheirsWithoutEmptyOnes) {
  // Each sequence is a token of one expert: 2 * p. Together they are balanced.
  const std::vector<float> p = {0.75f, 0.25f, 0.5f, 0.5f};

  EXPECT_NEAR(RunBalanceLoss(2, p, {0, 1}, {0, 1, 1, 2}), (1.5 + 1) / 2, 1e-6);
  EXPECT_NEAR(RunBalanceLoss(2, p, {0, 1}, {}), 1, 1e-6);
}

TEST(BalanceLossTest, WithoutAChoiceIsZero) {
  EXPECT_EQ(RunBalanceLoss(2, {0.5f, 0.5f, 0, 0}, {-1, -1}, {}), 0);
}

TEST(BalanceLossTest, GradientAgreesWithDifferences) {
  for (const bool per_sequence : {false, true}) {
    GradCheckOptions options;
    options.fill = [](const std::string& name, const TensorView& view) {
      if (name != "seq_start") return FillChoice(name, view);
      const std::vector<int32_t> start = {0, 2, 3};
      std::copy(start.begin(), start.end(), view.as<int32_t>());
      return true;
    };
    EXPECT_THAT(
        CheckGradients(
            [&](GraphBuilder& b) -> std::vector<ValueId> {
              const ValueId p =
                  b.Input("p", DType::kF64, {Static(3), Static(4)});
              const ValueId expert =
                  b.Input("expert", DType::kI32, {Static(3), Static(3)});
              return {BalanceLoss(
                  b, p, expert,
                  per_sequence ? b.Input("seq_start", DType::kI32, {Static(3)})
                               : kNone)};
            },
            {RegisterGateLossKernels}, options),
        IsOk());
  }
}

// --- ZLoss ---

TEST(ZLossTest, IsTheMeanSquareOfTheLogOfTheSum) {
  GraphRun run(
      [](GraphBuilder& b) {
        b.Output("loss",
                 ZLoss(b, b.Input("x", DType::kF32, {Static(2), Static(2)})));
      },
      {RegisterGateLossKernels});
  run.Set<float>("x", {0, 0, 100, 100});
  ASSERT_THAT(run.Run(), IsOk());

  const double log2 = std::log(2.0);
  EXPECT_NEAR(run.Get<float>("loss")[0],
              (log2 * log2 + (100 + log2) * (100 + log2)) / 2, 1e-3);
}

TEST(ZLossTest, GradientAgreesWithDifferences) {
  EXPECT_THAT(CheckGradients(
                  [](GraphBuilder& b) -> std::vector<ValueId> {
                    return {ZLoss(
                        b, b.Input("x", DType::kF64, {Static(5), Static(7)}))};
                  },
                  {RegisterGateLossKernels}),
              IsOk());
}

}  // namespace
}  // namespace strata
