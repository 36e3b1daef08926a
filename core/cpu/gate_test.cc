#include "core/cpu/gate.h"

#include <algorithm>
#include <cmath>
#include <cstdint>
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
using ::testing::FloatNear;

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

TEST(EnergySignatureTest, SaysHowFarEachSlicesShareIsFromEven) {
  // Slices (3, 4) and (0, 12): norms 5 and 12, of the row 13; even shares are
  // 13 / sqrt(2). Slices of n = 2 columns: times sqrt(2 n) = 2.
  EXPECT_THAT(RunEnergySignature(1, 4, 2, {3, 4, 0, 12}),
              ElementsAre(FloatNear(2 * (5 * std::sqrt(2.f) / 13 - 1), 1e-6),
                          FloatNear(2 * (12 * std::sqrt(2.f) / 13 - 1), 1e-6)));
}

TEST(EnergySignatureTest, OfAnEvenRowAndOfAZeroRowIsZeros) {
  EXPECT_THAT(RunEnergySignature(2, 6, 3, {2, 2, 2, 2, 2, 2, 0, 0, 0, 0, 0, 0}),
              ElementsAre(FloatNear(0, 1e-6), FloatNear(0, 1e-6),
                          FloatNear(0, 1e-6), 0, 0, 0));
}

// Keys meet numbers of variance 1; see the formula in core/ops/gate.h.
TEST(EnergySignatureTest, OfNormalNumbersHasUnitVariance) {
  constexpr int kRows = 500, kGroups = 16, kColumns = 128;
  std::mt19937 rng(5);
  std::normal_distribution<float> normal;
  std::vector<float> x(kRows * kColumns);
  for (float& value : x) value = normal(rng);

  double sum = 0, sum_of_squares = 0;
  for (const float s : RunEnergySignature(kRows, kColumns, kGroups, x)) {
    sum += s;
    sum_of_squares += s * s;
  }

  constexpr double kCount = kRows * kGroups;
  // Over 8000 numbers the variance is known to sqrt(2 / 8000) = 1.6 %; that the
  // row's own norm is taken out costs 1 / groups.
  EXPECT_NEAR(sum / kCount, 0, 0.15);
  EXPECT_NEAR(sum_of_squares / kCount, 1, 0.12);
}

TEST(EnergySignatureTest, SurvivesRowsAsSmallAsFloatsGo) {
  // 1e-22 squared is a denormal float; its reciprocal overflows.
  EXPECT_THAT(RunEnergySignature(1, 2, 2, {1e-22f, 0}),
              ElementsAre(FloatNear(2 - std::sqrt(2.f), 1e-6),
                          FloatNear(-std::sqrt(2.f), 1e-6)));
}

// --- SelectedWeight ---

std::vector<float> RunSelectedWeight(const WeightOptions& options,
                                     const std::vector<float>& p,
                                     const std::vector<int32_t>& expert) {
  GraphRun run(
      [&](GraphBuilder& b) {
        const ValueId in = b.Input("p", DType::kF32, {Static(2), Static(3)});
        const ValueId e =
            b.Input("expert", DType::kI32, {Static(2), Static(2)});
        b.Output("weight", SelectedWeight(b, in, e, options));
      },
      {RegisterGateKernels});
  run.Set("p", p);
  run.Set("expert", expert);
  EXPECT_THAT(run.Run(), IsOk());
  return run.Get<float>("weight");
}

TEST(SelectedWeightTest, IsTheChosenScoresScaled) {
  EXPECT_THAT(
      RunSelectedWeight({false, 0, 2}, {0.1f, 0.2f, 0.3f, 0.4f, 0.5f, 0.6f},
                        {2, 0, 1, -1}),
      ElementsAre(FloatNear(0.6f, 1e-6), FloatNear(0.2f, 1e-6),
                  FloatNear(1, 1e-6), 0));
}

TEST(SelectedWeightTest, NormalizedAddsUpToTheScale) {
  // 0.3 and 0.1 of 0.4; a lone one; times 2.5.
  EXPECT_THAT(
      RunSelectedWeight({true, 0, 2.5}, {0.1f, 0.2f, 0.3f, 0.4f, 0.5f, 0.6f},
                        {2, 0, 1, -1}),
      ElementsAre(FloatNear(1.875f, 1e-5), FloatNear(0.625f, 1e-5),
                  FloatNear(2.5f, 1e-5), 0));
}

TEST(SelectedWeightTest, NormalizedWithoutAnyChoiceIsZero) {
  EXPECT_THAT(
      RunSelectedWeight({true, 0, 1}, {0, 0, 0, 1, 1, 1}, {0, 1, -1, -1}),
      Each(0));
}

TEST(SelectedWeightTest, BelowTheFloorSmallScoresStaySmall) {
  // 0.6 + 0.9 is above the floor of 0.5: shares. 0.2 + 0.1 is below: halves.
  EXPECT_THAT(
      RunSelectedWeight({true, 0.5, 1}, {0.6f, 0.5f, 0.9f, 0.1f, 0.5f, 0.2f},
                        {2, 0, 2, 0}),
      ElementsAre(FloatNear(0.6f, 1e-6), FloatNear(0.4f, 1e-6),
                  FloatNear(0.4f, 1e-6), FloatNear(0.2f, 1e-6)));
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
  GradCheckOptions check;
  check.fill = FillChoice;
  const std::vector<WeightOptions> kinds = {
      {false, 0, 2.5}, {true, 0, 2.5}, {true, 0.9, 2.5}, {true, 10, 2.5}};
  for (const WeightOptions& options : kinds) {
    EXPECT_THAT(
        CheckGradients(
            [&](GraphBuilder& b) -> std::vector<ValueId> {
              return {SelectedWeight(
                  b, b.Input("p", DType::kF64, {Static(3), Static(4)}),
                  b.Input("expert", DType::kI32, {Static(3), Static(3)}),
                  options)};
            },
            {RegisterGateKernels}, check),
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
