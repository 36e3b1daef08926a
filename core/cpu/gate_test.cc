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

TEST(EnergySignatureTest, GradientAgreesWithDifferences) {
  for (const int64_t groups : {1, 3, 12}) {  // Of 12, 4 and 1 columns.
    EXPECT_THAT(CheckGradients(
                    [&](GraphBuilder& b) -> std::vector<ValueId> {
                      return {EnergySignature(
                          b, b.Input("x", DType::kF64, {Static(5), Static(12)}),
                          groups)};
                    },
                    {RegisterGateKernels}),
                IsOk());
  }
}

TEST(EnergySignatureTest, NoGradientComesFromAZeroRowOrSlice) {
  GraphRun run(
      [](GraphBuilder& b) {
        const ValueId x = b.Input("x", DType::kF32, {Static(2), Static(4)});
        const ValueId ds = b.Input("ds", DType::kF32, {Static(2), Static(2)});
        b.Output("dx", b.Add1(kEnergySignatureGrad, {ds, x},
                              {{"groups", int64_t{2}}}));
      },
      {RegisterGateKernels});
  run.Set<float>("x", {0, 0, 0, 0, 0, 0, 3, 4});
  run.Set<float>("ds", {1, 1, 1, 1});
  ASSERT_THAT(run.Run(), IsOk());

  // A lone slice is all of the row: its share stays 1.
  EXPECT_THAT(run.Get<float>("dx"), Each(FloatNear(0, 1e-6)));
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

// --- CarryWeight ---

TEST(CarryWeightTest, CountsWhatIsStillOnItsWay) {
  GraphRun run(
      [](GraphBuilder& b) {
        const ValueId w = b.Input("w", DType::kF32, {Static(2), Static(2)});
        const Carried first = CarryWeight(b, w, kNone);
        const Carried second = CarryWeight(b, w, first.carry);
        b.Output("first", first.carry);
        b.Output("weight", second.weight);
        b.Output("second", second.carry);
      },
      {RegisterGateKernels});
  run.Set<float>("w", {0.25f, 0.25f, 0.5f, 0.5f});
  ASSERT_THAT(run.Run(), IsOk());

  EXPECT_THAT(run.Get<float>("first"), ElementsAre(0.5f, 1));
  EXPECT_THAT(run.Get<float>("weight"),
              ElementsAre(0.125f, 0.125f, 0.5f, 0.5f));
  EXPECT_THAT(run.Get<float>("second"), ElementsAre(0.25f, 1));
}

TEST(CarryWeightTest, GradientAgreesWithDifferences) {
  EXPECT_THAT(CheckGradients(
                  [](GraphBuilder& b) -> std::vector<ValueId> {
                    const Dims dims = {Static(3), Static(4)};
                    const Carried first =
                        CarryWeight(b, b.Input("a", DType::kF64, dims), kNone);
                    const Carried second = CarryWeight(
                        b, b.Input("b", DType::kF64, dims), first.carry);
                    return {first.weight, second.weight, second.carry};
                  },
                  {RegisterGateKernels}),
              IsOk());
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

// --- SignBias ---

TEST(SignBiasTest, MovesByItsRateTowardsTheMean) {
  GraphRun run(
      [](GraphBuilder& b) {
        SignBias(b, b.Input("offset", DType::kI32, {Static(4)}),
                 b.State("bias", DType::kF32, {Static(3)}), 0.5);
        EXPECT_EQ(b.graph().nodes().back().phase, Phase::kUpdate);
        EXPECT_EQ(b.phase(), Phase::kForward);
      },
      {RegisterGateKernels});
  run.Set<float>("bias", {1, 2, 3});
  run.Set<int32_t>("offset", {0, 1, 3, 6});  // Loads 1, 2, 3; mean 2.
  ASSERT_THAT(run.Run(), IsOk());

  EXPECT_THAT(run.Get<float>("bias"), ElementsAre(1.5f, 2, 2.5f));
}

}  // namespace
}  // namespace strata
