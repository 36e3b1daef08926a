#include "core/ops/activation.h"

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

class ActivationTest : public testing::Test {
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
  void ExpectError(const char* text) {
    EXPECT_THAT(b_.status(), StatusIs(kInvalid, HasSubstr(text)));
  }

  GraphBuilder b_{DType::kF32};
  const Dim t_ = Ragged(30, b_.Input("t", DType::kI32, {}));
};

TEST_F(ActivationTest, InfersShapes) {
  const ValueId h = Float("h", {t_, Static(8)});
  const ValueId dy = Float("dy", {t_, Static(4)});
  EXPECT_EQ(Text(SwiGlu(b_, h)), "F32[t<=30, 4]");
  EXPECT_EQ(Text(b_.Add1(kSwiGluGrad, {dy, h})), "F32[t<=30, 8]");
  EXPECT_EQ(Text(Sigmoid(b_, Float("s", {}))), "F32[]");
  EXPECT_EQ(Text(MaskedSoftmax(b_, h, kNone, 2)), "F32[t<=30, 8]");
  const ValueId mask = b_.Input("mask", DType::kU8, {t_, Static(8)});
  EXPECT_EQ(Text(MaskedSoftmax(b_, h, mask, 2)), "F32[t<=30, 8]");
}

TEST_F(ActivationTest, SwiGluWantsTwoHalves) {
  SwiGlu(b_, Float("h", {t_, Static(7)}));
  ExpectError("h is F32[t<=30, 7]; want an even number of columns");
}

TEST_F(ActivationTest, SwiGluGradWantsHalfTheColumns) {
  b_.Add1(kSwiGluGrad,
          {Float("dy", {t_, Static(3)}), Float("h", {t_, Static(8)})});
  ExpectError("dy is F32[t<=30, 3]; want F32[t<=30, 4]");
}

TEST_F(ActivationTest, SoftmaxWantsAMaskOfItsShape) {
  MaskedSoftmax(b_, Float("x", {t_, Static(8)}),
                b_.Input("mask", DType::kU8, {Static(30), Static(8)}), 1);
  ExpectError("mask is U8[30, 8]; want U8[t<=30, 8]");
}

TEST_F(ActivationTest, SoftmaxWantsAPositiveScale) {
  MaskedSoftmax(b_, Float("x", {t_, Static(8)}), kNone, -1);
  ExpectError("scale is -1; want more than 0");
}

TEST_F(ActivationTest, CostsAFewFlopsAnElement) {
  const ValueId h = Float("h", {t_, Static(8)});
  const ValueId y = SwiGlu(b_, h);
  EXPECT_EQ(LatestCost(20).flops, 5 * 20 * 4);
  b_.Add1(kSwiGluGrad, {y, h});
  EXPECT_EQ(LatestCost(20).flops, 10 * 20 * 4);
  Sigmoid(b_, h);
  EXPECT_EQ(LatestCost(20).flops, 3 * 20 * 8);
  b_.Add1(kSigmoidGrad, {h, h});
  EXPECT_EQ(LatestCost(20).flops, 3 * 20 * 8);
  MaskedSoftmax(b_, h, kNone, 1);
  EXPECT_EQ(LatestCost(20).flops, 6 * 20 * 8);
  b_.Add1(kMaskedSoftmaxGrad, {h, h}, {{"scale", 1.0}});
  EXPECT_EQ(LatestCost(20).flops, 5 * 20 * 8);
}

}  // namespace
}  // namespace strata
