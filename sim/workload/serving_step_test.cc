#include "sim/workload/serving_step.h"

#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "core/testing/status_matchers.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "sim/workload/simulator.h"

namespace strata::sim {
namespace {

using ::testing::HasSubstr;

class ServingStepTest : public ::testing::Test {
 protected:
  ServingResult Run(const std::string& layout, ServingPhase phase,
                    int64_t batch, int64_t context) {
    Scenario scenario;
    scenario.model = "deepseek-v3";
    scenario.cluster = "h800x32";
    scenario.layout = layout;
    const absl::StatusOr<StepInputs> inputs = simulator_.Inputs(scenario);
    EXPECT_THAT(inputs, IsOk());
    const absl::StatusOr<ServingResult> result =
        SimulateServing(*inputs, {phase, batch, context});
    EXPECT_THAT(result, IsOk());
    return *result;
  }

  Simulator simulator_;
};

TEST_F(ServingStepTest, DecodingReadsWeightsOnceForTheWholeBatch) {
  const ServingResult one =
      Run("ep32,fp8,deepep", ServingPhase::kDecode, 1, 4096);
  const ServingResult many =
      Run("ep32,fp8,deepep", ServingPhase::kDecode, 64, 4096);
  EXPECT_LT(many.seconds, 16 * one.seconds);
  EXPECT_GT(many.tokens_per_second_per_gpu, 4 * one.tokens_per_second_per_gpu);
}

TEST_F(ServingStepTest, TheCacheGrowsWithTheContext) {
  const ServingResult near =
      Run("ep32,fp8,deepep", ServingPhase::kDecode, 32, 1000);
  const ServingResult far =
      Run("ep32,fp8,deepep", ServingPhase::kDecode, 32, 8000);
  EXPECT_NEAR(far.memory.kv_cache, 8 * near.memory.kv_cache, 1);
  // 61 layers, 576 numbers a token, two bytes.
  EXPECT_NEAR(near.memory.kv_cache, 32.0 * 1000 * 61 * 576 * 2, 1);
  EXPECT_GT(far.seconds, near.seconds);
}

TEST_F(ServingStepTest, TwoBatchesHideDispatch) {
  const ServingResult plain =
      Run("ep32,fp8,deepep", ServingPhase::kPrefill, 1, 4096);
  const ServingResult overlapped =
      Run("ep32,fp8,deepep,epo", ServingPhase::kPrefill, 1, 4096);
  EXPECT_LT(overlapped.seconds, plain.seconds);
}

TEST(ServingPhaseTest, HasTwoNames) {
  EXPECT_THAT(ParseServingPhase("prefill"), IsOk());
  EXPECT_THAT(ParseServingPhase("decode"), IsOk());
  EXPECT_THAT(ParseServingPhase("train"),
              StatusIs(absl::StatusCode::kInvalidArgument,
                       HasSubstr("want prefill or decode")));
}

}  // namespace
}  // namespace strata::sim
