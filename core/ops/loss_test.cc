#include "core/ops/loss.h"

#include <cstdint>
#include <string>

#include "absl/status/status.h"
#include "core/graph/builder.h"
#include "core/graph/graph.h"
#include "core/graph/op_def.h"
#include "core/tensor/dtype.h"
#include "core/testing/status_matchers.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace strata {
namespace {

using ::testing::HasSubstr;

constexpr auto kInvalid = absl::StatusCode::kInvalidArgument;

class LossTest : public testing::Test {
 protected:
  // Of the latest node, when `t` of the ragged rows are there.
  Cost LatestCost(double t) {
    return CostOf(b_.graph(), b_.graph().nodes().back(),
                  [t](ValueId, int64_t) { return t; });
  }
  std::string Text(ValueId value) { return ToText(b_.graph(), b_.type(value)); }
  ValueId Float(const char* name, Dims dims) {
    return b_.Input(name, DType::kF32, dims);
  }
  ValueId Int(const char* name, Dims dims) {
    return b_.Input(name, DType::kI32, dims);
  }
  void ExpectError(const char* text) {
    EXPECT_THAT(b_.status(), StatusIs(kInvalid, HasSubstr(text)));
  }

  GraphBuilder b_{DType::kF32};
  const Dim t_ = Ragged(30, b_.Input("t", DType::kI32, {}));
};

TEST_F(LossTest, InfersTheMeanAndATokensShare) {
  const ValueId logits = Float("logits", {t_, Static(50)});
  const ValueId target = Int("target", {t_});
  const CrossEntropyResult result = CrossEntropy(b_, logits, target);
  EXPECT_EQ(Text(result.loss), "F32[]");
  EXPECT_EQ(Text(result.nll), "F32[t<=30]");
  const ValueId lse = b_.graph().nodes().back().outputs[2];
  EXPECT_EQ(
      Text(b_.Add1(kCrossEntropyGrad, {result.loss, logits, target, lse})),
      "F32[t<=30, 50]");
}

TEST_F(LossTest, WantsATargetARow) {
  CrossEntropy(b_, Float("logits", {t_, Static(50)}),
               Int("target", {Static(30)}));
  ExpectError("target is I32[30]; want I32[t<=30]");
}

TEST_F(LossTest, CostsAFewFlopsALogit) {
  const ValueId logits = Float("logits", {t_, Static(50)});
  const ValueId target = Int("target", {t_});
  const CrossEntropyResult result = CrossEntropy(b_, logits, target);
  EXPECT_EQ(LatestCost(20).flops, 4 * 20 * 50);
  const ValueId lse = b_.graph().nodes().back().outputs[2];
  b_.Add1(kCrossEntropyGrad, {result.loss, logits, target, lse});
  EXPECT_EQ(LatestCost(20).flops, 3 * 20 * 50);
}

}  // namespace
}  // namespace strata
