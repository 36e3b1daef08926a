#include "tools/scorecard/c7_edge.h"

#include "core/model/vision/vision_encoder.h"
#include "core/testing/status_matchers.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tools/scorecard/claim.h"

namespace strata {
namespace {

using ::testing::Contains;
using ::testing::HasSubstr;

TEST(EdgeVisionTest, MeasuresAnEncoderThreeWays) {
  VisionConfig config = EdgeVisionConfig();
  config.image_size = 32;
  config.blocks.set_num_layers(1);
  const auto result = EdgeVision(config, {/*seed=*/1, /*rounds=*/3, 1});
  ASSERT_THAT(result, IsOk());
  EXPECT_EQ(result->id, "C7");
  const Measure& promised = result->measures[0];
  EXPECT_EQ(promised.promised, 12);
  EXPECT_EQ(promised.reached(), promised.ours.mean >= 12);
  EXPECT_GT(promised.ours.mean, 0);
  // A byte and a sixteenth for four; gates and tables stay.
  const Measure& bytes = result->measures.back();
  EXPECT_GT(bytes.ratio.mean, 0.26);
  EXPECT_LT(bytes.ratio.mean, 0.5);
  EXPECT_THAT(result->notes, Contains(HasSubstr("no gate can choose")));
}

}  // namespace
}  // namespace strata
