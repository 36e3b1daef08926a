#include "core/cpu/biased_score.h"

#include <string>
#include <vector>

#include "absl/status/status.h"
#include "core/graph/builder.h"
#include "core/ops/biased_score.h"
#include "core/tensor/dtype.h"
#include "core/testing/grad_check.h"
#include "core/testing/graph_run.h"
#include "core/testing/status_matchers.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace strata {
namespace {

using ::testing::ElementsAre;
using ::testing::FloatNear;
using ::testing::HasSubstr;

TEST(BiasedScoreTest, AddsEachExpertsBiasAndStopsAtZero) {
  GraphRun run(
      [](GraphBuilder& b) {
        b.Output(
            "out",
            BiasedScore(b, b.Input("p", DType::kF32, {Static(2), Static(3)}),
                        b.Input("bias", DType::kF32, {Static(3)})));
      },
      {RegisterBiasedScoreKernels});
  run.Set<float>("p", {0.5f, 0.25f, 0.5f, 1, 0, 0.125f});
  run.Set<float>("bias", {0.25f, 0, -0.25f});

  ASSERT_THAT(run.Run(), IsOk());

  EXPECT_THAT(run.Get<float>("out"),
              ElementsAre(FloatNear(0.75f, 1e-7), 0.25f, 0.25f, 1.25f, 0, 0));
}

TEST(BiasedScoreTest, GradientAgreesWithDifferences) {
  GradCheckOptions check;
  // Some scores end at zero, none near it, where the maximum has a kink.
  check.fill = [](const std::string& name, const TensorView& view) {
    if (name != "p") return false;
    for (int i = 0; i < 12; ++i) view.as<double>()[i] = (i % 4) - 0.6;
    return true;
  };
  EXPECT_THAT(
      CheckGradients(
          [](GraphBuilder& b) -> std::vector<ValueId> {
            return {BiasedScore(b, b.Parameter("p", {Static(3), Static(4)}),
                                b.State("bias", DType::kF64, {Static(4)}))};
          },
          {RegisterBiasedScoreKernels}, check),
      IsOk());
}

TEST(BiasedScoreTest, WantsABiasAnExpert) {
  GraphBuilder b;
  BiasedScore(b, b.Input("p", DType::kF32, {Static(2), Static(3)}),
              b.Input("bias", DType::kF32, {Static(4)}));

  EXPECT_THAT(b.status(), StatusIs(absl::StatusCode::kInvalidArgument,
                                   HasSubstr("bias is F32[4]; want F32[3]")));
}

}  // namespace
}  // namespace strata
